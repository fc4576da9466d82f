//! The quick start, as the README has it.

use crate::support::Server;

#[test]
fn hello_answers() {
    let server = Server::run("hello").workers(2).start();
    let answer = server.get("/");
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello world"));
    let mut names: Vec<_> = server.children().into_iter().map(|child| child.name).collect();
    names.sort();
    assert_eq!(names, ["hello:0", "hello:1"]);
    assert_eq!(server.stop().code(), Some(0));
}
