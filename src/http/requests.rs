//! Which requests a connection has in flight, for the one time that somebody asks: when they are cut.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Method, uri::PathAndQuery};

use super::route::Route;
use crate::event::{CutRequest, Cuts};

/// A place a request: one over HTTP/1, as many as there were streams at once over HTTP/2. The lock is held for a few
/// instructions, over HTTP/1 always by the same task.
#[derive(Default)]
pub(super) struct Requests(Mutex<Places>);

/// The first place needs no memory of its own: over HTTP/1 there is no other.
#[derive(Default)]
struct Places {
    first: Option<Known>,
    more: Vec<Option<Known>>,
}

impl Places {
    fn at(&mut self, place: u32) -> &mut Option<Known> {
        match place.checked_sub(1) {
            None => &mut self.first,
            Some(place) => &mut self.more[place as usize],
        }
    }

    /// An empty one.
    fn vacant(&mut self) -> u32 {
        if self.first.is_none() {
            return 0;
        }
        let vacant = self.more.iter().position(Option::is_none);
        let vacant = vacant.unwrap_or_else(|| {
            self.more.push(None);
            self.more.len() - 1
        });
        // No more than a connection has streams.
        1 + vacant as u32
    }
}

/// What is kept of a request: words and references, no copies.
struct Known {
    method: Method,
    path: Option<PathAndQuery>,
    since: u64,
    /// Where somebody wants to know, and as soon as it is known.
    route: Option<Route>,
}

impl Requests {
    /// Notes a request and returns its place.
    pub(super) fn enter(&self, method: Method, path: Option<PathAndQuery>, since: u64) -> u32 {
        let mut places = self.lock();
        let place = places.vacant();
        *places.at(place) = Some(Known {
            method,
            path,
            since,
            route: None,
        });
        place
    }

    /// It has come to its route.
    pub(super) fn takes(&self, place: u32, route: Route) {
        if let Some(known) = self.lock().at(place) {
            known.route = Some(route);
        }
    }

    /// Shows what was asked for.
    pub(super) fn look(&self, place: u32, look: impl FnOnce(&Method, Option<&Route>)) {
        if let Some(known) = self.lock().at(place) {
            look(&known.method, known.route.as_ref());
        }
    }

    pub(super) fn leave(&self, place: u32) {
        let known = self.lock().at(place).take();
        drop(known); // and perhaps a buffer with it: not under the lock
    }

    /// It has become a protocol of its own and stays for as long as the connection.
    pub(super) fn stays(&self, place: u32) {
        if let Some(known) = self.lock().at(place) {
            // A copy: a reference would keep hyper's whole buffer.
            known.path = known
                .path
                .take()
                .and_then(|path| path.as_str().parse().ok());
        }
    }

    /// Adds what is in flight to `cuts`. Of all connections' requests the oldest are named.
    pub(super) fn tell(&self, now: u64, cuts: &mut Cuts) {
        let places = self.lock();
        for known in places.first.iter().chain(places.more.iter().flatten()) {
            cuts.add(
                Duration::from_millis(now.saturating_sub(known.since)),
                |age| {
                    CutRequest::new(
                        known.method.clone(),
                        known.path.as_ref().map_or("", PathAndQuery::path),
                        age,
                    )
                },
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // Whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
