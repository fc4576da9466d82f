//! The cluster's listeners by name: what was asked for, so that programs that follow one another know which is whose.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{address::Address, sockets::Listener};

/// What a listener is called: the address as asked for. A number follows where the same was asked for more than once (two times port 0).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Name(String);

/// The name of what `bind_with` makes. No address is like it.
const MADE: &str = "<made>";

/// The name of what workers ask for, which is known by its number.
const ASKED_FOR: &str = "<asked for>";

impl Name {
    pub(crate) fn asked_for() -> Self {
        Self(ASKED_FOR.to_owned())
    }

    /// The address that the name stands for; `None` for what a closure made.
    pub(crate) fn address(&self) -> Option<Address> {
        let asked = self.0.split('#').next().unwrap_or_default();
        (asked != MADE && asked != ASKED_FOR).then(|| Address::from(asked))
    }
}

/// Names what a program asks for, in its order. `None`: made by a closure.
pub(crate) fn names<'a>(asked: impl IntoIterator<Item = Option<&'a Address>>) -> Vec<Name> {
    let mut times = BTreeMap::new();
    asked
        .into_iter()
        .map(|address| {
            let name = address.map_or_else(|| MADE.to_owned(), ToString::to_string);
            let time: &mut u32 = times.entry(name.clone()).or_default();
            *time += 1;
            Name(if *time > 1 {
                format!("{name}#{time}")
            } else {
                name
            })
        })
        .collect()
}

/// What a program listens on: each listener's name, and the number of the app behind it.
pub(crate) type Asked = Vec<(Name, u16)>;

/// A listener of this cluster. Its number is its own for as long as the cluster lives, through every program.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) number: u16,
    pub(crate) name: Name,
    /// Which app of this program serves it.
    pub(crate) app: u16,
    pub(crate) listener: Listener,
}

/// The app of a worker behind a listener: the one that its own program has there; failing that, the one of the same number, or the first.
///
/// The last two are for a worker whose program does not listen there any more, or not yet: somebody has to answer.
pub(crate) fn app_of(asked: &Asked, name: &Name, here: u16) -> u16 {
    let there = asked.iter().find(|(other, _)| other == name);
    match there {
        Some(&(_, app)) => app,
        None if asked.iter().any(|&(_, app)| app == here) => here,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_has_a_name_of_its_own() {
        let (any, unix) = (Address::from("127.0.0.1:0"), Address::from("unix:/run/x"));
        let names = names([Some(&any), None, Some(&unix), Some(&any), None]);
        assert_eq!(names.len(), 5);
        assert!((1..5).all(|n| !names[..n].contains(&names[n])), "{names:?}");
        let addresses: Vec<_> = names.iter().map(Name::address).collect();
        assert_eq!(
            addresses,
            [Some(any.clone()), None, Some(unix), Some(any), None]
        );
    }

    #[test]
    fn a_worker_of_another_program_serves_what_it_has_there() {
        let address = |port| Address::from(([127, 0, 0, 1], port));
        let all = [address(1), address(2), address(3)];
        let names = names(all.iter().map(Some));
        let asked = vec![(names[1].clone(), 0), (names[0].clone(), 1)];
        assert_eq!(app_of(&asked, &names[0], 0), 1);
        assert_eq!(app_of(&asked, &names[1], 1), 0);
        assert_eq!(
            app_of(&asked, &names[2], 1),
            1,
            "the one of the same number"
        );
        assert_eq!(app_of(&asked, &names[2], 2), 0, "the first");
    }
}
