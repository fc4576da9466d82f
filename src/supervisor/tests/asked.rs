//! What the program asks for one worker.

use super::*;

// W-16: at once, and nothing is held against the slot. K-5: twice is once.
#[test]
fn a_worker_that_is_disconnected_makes_room_at_once() {
    let mut rig = Rig::serving(2);
    assert_eq!(
        rig.on(Input::Disconnect(id(1))),
        [Action::Retire(id(1)), spawn(3, 0, 1)]
    );
    assert_eq!(rig.on(Input::Disconnect(id(1))), []);
    assert_eq!(rig.die(1), []);
    assert_eq!(rig.up(3), []);
}

#[test]
fn a_worker_that_does_not_serve_yet_is_disconnected_all_the_same() {
    let mut rig = Rig::new(1);
    rig.all([Input::Start, Input::Spawned(id(1))]);
    let left = rig.on(Input::Disconnect(id(1)));
    assert_eq!(left, [Action::Retire(id(1)), spawn(2, 0, 1)]);
    assert_eq!(rig.all([Input::Online(id(1)), Input::Listening(id(1))]), []);
    assert_eq!(rig.state(1), Some(State::Draining));
}

// W-20 as section 0 has it: first it may leave, at the deadline it ends by the signal, and a second later it is killed.
#[test]
fn a_kill_disconnects_first_and_has_the_drain_deadline_as_its_bound() {
    let mut rig = Rig::serving(2);
    rig.silent.insert(0);
    assert_eq!(
        rig.on(Input::DisconnectAndEnd(id(1)))[0],
        Action::Retire(id(1))
    );
    let mut actions = rig.wait(ms(29_950));
    assert_eq!(actions, []);
    actions = rig.wait(ms(50));
    assert_eq!(actions, [Action::End(id(1))]);
    assert_eq!(rig.wait(ms(950)), []);
    assert_eq!(rig.wait(ms(50)), [Action::Kill(id(1))]);
}

#[test]
fn a_kill_of_one_that_leaves_already_does_not_wait_again() {
    let mut rig = Rig::serving(2);
    rig.on(Input::Disconnect(id(1)));
    assert_eq!(rig.on(Input::DisconnectAndEnd(id(1))), [Action::End(id(1))]);
    assert_eq!(rig.on(Input::DisconnectAndEnd(id(1))), []);
    assert_eq!(rig.wait(ms(1000)), [Action::Kill(id(1))]);
}

#[test]
fn once_its_channel_has_closed_a_worker_that_is_to_be_killed_has_a_second() {
    let mut rig = Rig::serving(2);
    rig.on(Input::DisconnectAndEnd(id(1)));
    assert_eq!(rig.on(Input::Disconnected(id(1))), []);
    assert_eq!(rig.wait(ms(1000)), [Action::Kill(id(1))]);
    rig.on(Input::Disconnect(id(2)));
    rig.on(Input::Disconnected(id(2)));
    assert_eq!(
        rig.on(Input::DisconnectAndEnd(id(2))),
        [Action::Kill(id(2))]
    );
}

// `process().kill()`: a death like any other.
#[test]
fn a_worker_that_is_ended_has_crashed() {
    let mut rig = Rig::serving(2);
    assert_eq!(rig.on(Input::End(id(1))), [Action::End(id(1))]);
    assert_eq!(rig.supervisor.listening(), 1);
    assert_eq!(spawned(&rig.die(1)), [3]);
}

// The worker of a restart that is on trial: the restart is given up, and the worker drains.
#[test]
fn a_successor_on_trial_that_is_disconnected_ends_the_restart() {
    let mut rig = Rig::serving(1);
    rig.on(Input::Restart { min_up: ms(1000) });
    rig.up(2);
    let actions = rig.on(Input::Disconnect(id(2)));
    assert_eq!(actions[0], Action::Retire(id(2)));
    assert!(matches!(
        actions[1],
        Action::Note(Note::RestartAbandoned { .. })
    ));
    assert_eq!(actions.len(), 2);
}

/// Of a cluster whose workers the program forks itself.
fn by_hand() -> Rig {
    let mut rig = Rig::new(1);
    rig.supervisor.policy.supervised = false;
    assert_eq!(rig.on(Input::Start), []);
    rig
}

// C-18, K-23: nobody but who was asked for; ids count up, the lowest free slot is used again.
#[test]
fn nothing_is_forked_that_was_not_asked_for() {
    let mut rig = by_hand();
    assert_eq!(rig.on(Input::Fork), [spawn(1, 0, 1)]);
    assert_eq!(
        rig.all([Input::Spawned(id(1)), Input::Fork]),
        [spawn(2, 1, 1)]
    );
    rig.all([
        Input::Spawned(id(2)),
        Input::Online(id(1)),
        Input::Online(id(2)),
    ]);
    assert_eq!(
        rig.wait(ms(120_000)),
        [],
        "to boot takes as long as it takes"
    );
    assert_eq!(rig.die(1), []);
    assert_eq!(
        rig.all([Input::Scale(3), Input::Leaving(id(2))]),
        [Action::Retire(id(2))]
    );
    assert_eq!(rig.on(Input::Fork), [spawn(3, 0, 1)]);
}

// C-6 bettered: a fork that fails uses up no id.
#[test]
fn a_fork_that_fails_uses_up_no_id() {
    let mut rig = by_hand();
    rig.on(Input::Fork);
    assert_eq!(rig.on(Input::SpawnFailed(id(1))), []);
    assert_eq!(rig.on(Input::Fork), [spawn(1, 0, 1)]);
}

// A worker that never listens is at work all the same, and has its time to leave.
#[test]
fn at_the_end_workers_that_never_listened_may_leave() {
    let mut rig = by_hand();
    rig.all([Input::Fork, Input::Spawned(id(1)), Input::Online(id(1))]);
    assert_eq!(rig.on(Input::Shutdown), [Action::Retire(id(1))]);
    assert_eq!(rig.on(Input::Fork), []);
    assert_eq!(rig.die(1), [Action::Finished]);
}
