//! The list of all open connections of a process.
//!
//! Orders reach every connection, also one that comes in at the same moment, because coming in and ordering take the
//! same lock. A connection that is entered before an order is in the list and gets it; one entered after it is born with
//! it. Its first poll announces its waker under the lock, too: if that is before the order, the order wakes it; if after,
//! the look at its orders that follows sees it. The lock is taken a few times a connection, never for a request.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use super::{link::Link, orders::Orders};

#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    /// What was ordered so far.
    orders: Orders,
    places: Vec<Option<Arc<Link>>>,
    vacant: Vec<usize>,
}

impl Registry {
    /// Enters a connection and returns its place.
    pub(super) fn enter(&self, link: &Arc<Link>) -> usize {
        let mut list = self.lock();
        link.orders.put(list.orders);
        let link = Some(Arc::clone(link));
        if let Some(place) = list.vacant.pop() {
            list.places[place] = link;
            place
        } else {
            list.places.push(link);
            list.places.len() - 1
        }
    }

    /// Announces the task that drives a connection.
    pub(super) fn announce(&self, link: &Link, driver: &Waker) {
        let _list = self.lock();
        link.driver.get_or_init(|| driver.clone());
    }

    /// Vacates a place; says whether it was the last one taken.
    pub(super) fn vacate(&self, place: usize) -> bool {
        let mut list = self.lock();
        let link = mem::take(&mut list.places[place]);
        list.vacant.push(place);
        let empty = list.open() == 0;
        drop(list);
        drop(link); // and with it a waker, of whose drop nothing is known: never under the lock
        empty
    }

    pub(super) fn open(&self) -> usize {
        self.lock().open()
    }

    /// Orders something of every connection, now and to come. Returns those to which it is new: to be woken.
    pub(super) fn order(&self, orders: Orders) -> Vec<Arc<Link>> {
        let mut list = self.lock();
        list.orders = list.orders.union(orders);
        list.links()
            .filter(|link| link.orders.put(orders))
            .cloned()
            .collect()
    }

    /// Orders something of up to `n` connections that are idle and can move, and returns them: to be woken.
    pub(super) fn order_idle(&self, n: usize, orders: Orders) -> Vec<Arc<Link>> {
        self.lock()
            .links()
            .filter(|link| link.may_move() && link.orders.put(orders))
            .take(n)
            .cloned()
            .collect()
    }

    /// Tells the connections that are late that they are, and returns them: to be woken.
    pub(super) fn order_late(&self, now: u64) -> Vec<Arc<Link>> {
        self.lock()
            .links()
            .filter(|link| link.is_late(now) && link.orders.put(Orders::LATE))
            .cloned()
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // The list is whole between any two of its statements, so a panic elsewhere is no reason to stop.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn open(&self) -> usize {
        self.places.len() - self.vacant.len()
    }

    fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.places.iter().flatten()
    }
}
