//! From one program to the next.

use super::*;

/// The next program, told to have this many workers.
fn succeed(rig: &mut Rig, workers: u32) -> Vec<Action> {
    let legacy = rig.supervisor.legacy().expect("all is quiet");
    let policy = Policy {
        workers,
        ..Policy::default()
    };
    rig.supervisor = Supervisor::adopt(policy, &legacy, rig.now);
    rig.on(Input::Tick)
}

#[test]
fn workers_ids_and_generations_go_on() {
    let mut rig = Rig::serving(2);
    rig.on(RESTART);
    rig.up(3);
    rig.up(4);
    assert_eq!(succeed(&mut rig, 2), [Action::Note(Note::Ready)]);
    assert_eq!(rig.state(1), Some(State::Draining), "its drain goes on");
    assert_eq!(rig.state(3), Some(State::Listening));
    assert_eq!(rig.supervisor.generation(), generation(2));
    assert_eq!(rig.die(4), [spawn(5, 1, 2)], "its place and its generation");
    rig.up(5);
    assert_eq!(rig.on(RESTART), [spawn(6, 0, 3)]);
}

#[test]
fn a_drain_deadline_is_not_put_off() {
    let mut rig = Rig::serving(1);
    rig.on(RESTART);
    rig.up(2);
    rig.wait(ms(20_000));
    succeed(&mut rig, 1);
    assert_eq!(rig.wait(ms(9_000)), []);
    assert!(rig.wait(ms(2_000)).contains(&Action::Kill(id(1))));
}

#[test]
fn nothing_is_left_while_anything_is_under_way() {
    let mut rig = Rig::new(2);
    assert_eq!(rig.supervisor.legacy(), None, "not started");
    rig.on(Input::Start);
    rig.up(1);
    assert_eq!(rig.supervisor.legacy(), None, "a slot is empty");
    rig.up(2);
    assert!(rig.supervisor.legacy().is_some());
    rig.on(Input::Leaving(id(1)));
    assert_eq!(rig.supervisor.legacy(), None, "one wants to leave");
    rig.wait(ms(300));
    rig.up(3);
    assert!(rig.supervisor.legacy().is_some(), "one drains");
    rig.on(RESTART);
    assert_eq!(rig.supervisor.legacy(), None, "a restart");
    rig.on(Input::Shutdown);
    assert_eq!(rig.supervisor.legacy(), None, "the end");
}

#[test]
fn the_next_program_says_how_many_unless_somebody_has_scaled() {
    let mut rig = Rig::serving(2);
    assert_eq!(spawned(&succeed(&mut rig, 3)), [3]);
    rig.up(3);
    let fewer = succeed(&mut rig, 1);
    let retired = |n| fewer.contains(&Action::Retire(id(n)));
    assert!(retired(2) && retired(3) && !retired(1));
    rig.on(Input::Scale(2));
    rig.up(4);
    succeed(&mut rig, 8);
    assert_eq!(rig.supervisor.target(), 2);
}
