//! Bodies whose bytes look like requests, under continuous restarts: whatever a handler does with a body, it is never answered as one.

use crate::{
    client::{Outcome, Wire},
    shaken::{Case, Verdict, must_all_be_good, some},
};

const REQUEST: &str = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Plain,
    Chunked,
    /// With `Expect: 100-continue`, and sent whatever the answer to that is.
    Expected,
}

const FRAMINGS: [Framing; 3] = [Framing::Plain, Framing::Chunked, Framing::Expected];

/// What has to come of the request after it.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    /// Somebody reads the body to its end.
    IsAnswered,
    /// The server may end the connection instead of reading what nobody wants.
    MayFindTheEnd,
}

/// A POST to this path in each of the framings, then a GET.
fn bodies(path: &str, next: Next) {
    must_all_be_good(3 * some(), |case| {
        let framing = FRAMINGS[case.number % 3];
        let (head, body) = request(case, path, framing);
        let mut wire = case.connect_first_or_later()?;
        let answered_early = next == Next::MayFindTheEnd || path.starts_with("/keep");
        post(case, &mut wire, framing, &head, &body, answered_early)?;
        let number = case.number;
        let asked =
            wire.send(format!("GET /number/{number} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
        case.pause();
        match wire.response() {
            Err(Outcome::Reset) if next == Next::MayFindTheEnd => Ok(()),
            answer => {
                case.expect(answer, &number.to_string())
                    .map_err(|problem| format!("{framing:?}, next: {problem}, asked {asked:?}"))?;
                case.end(wire)
            }
        }
    });
}

/// The head, and the body as it is on the wire.
fn request(case: &mut Case<'_>, path: &str, framing: Framing) -> (String, Vec<u8>) {
    let content = REQUEST.repeat(1 + case.dice.below(3_000));
    let (field, body) = match framing {
        Framing::Chunked => {
            let chunk = |piece: &[u8]| {
                let size = format!("{:x}\r\n", piece.len());
                [size.as_bytes(), piece, b"\r\n"].concat()
            };
            let pieces = content.as_bytes().chunks(REQUEST.len() * 7);
            let mut body: Vec<u8> = pieces.flat_map(chunk).collect();
            body.extend(b"0\r\n\r\n");
            ("Transfer-Encoding: chunked".to_owned(), body)
        }
        _ => (
            format!("Content-Length: {}", content.len()),
            content.into_bytes(),
        ),
    };
    let expect = if framing == Framing::Expected {
        "Expect: 100-continue\r\n"
    } else {
        ""
    };
    let head = format!("POST {path} HTTP/1.1\r\nHost: test\r\n{expect}{field}\r\n\r\n");
    (head, body)
}

/// Sends it in two parts, with restarts between, and takes the answer when it should be there.
fn post(
    case: &mut Case<'_>,
    wire: &mut Wire,
    framing: Framing,
    head: &str,
    body: &[u8],
    answered_early: bool,
) -> Verdict {
    let told = |part: &str| format!("{framing:?}, {part}");
    wire.send(head.as_bytes())
        .map_err(|outcome| told(&format!("head: {outcome:?}")))?;
    let (first, rest) = body.split_at(case.dice.below(body.len()));
    let reads_early = answered_early && case.dice.below(2) == 0;
    if framing == Framing::Expected && !answered_early {
        let go_on = wire
            .head()
            .map_err(|outcome| told(&format!("{outcome:?}")))?;
        if go_on.status != 100 {
            return Err(told(&format!("{} instead of 100", go_on.status)));
        }
    }
    // What follows may meet a connection that the server has ended.
    let _ = wire.send(first);
    let mut answer = None;
    if reads_early {
        answer = Some(wire.response());
    }
    if reads_early || !answered_early {
        case.pause();
    } else {
        // A client that lets an ended connection be for a second finds its answer gone: as long as a server lingers.
        case.moment();
    }
    let _ = wire.send(rest);
    let answer = match answer {
        Some(answer) => answer,
        None => wire.response(),
    };
    case.expect(answer, "7")
        .map_err(|problem| told(&problem))
        .map(drop)
}

#[test]
fn a_body_that_is_never_read() {
    bodies("/ignore/7", Next::MayFindTheEnd);
}

#[test]
fn a_body_that_a_task_drops_later() {
    bodies("/keep/7?then=drop&ms=20", Next::MayFindTheEnd);
}

#[test]
fn a_body_that_a_task_reads_to_its_end() {
    bodies("/keep/7?then=read&ms=20", Next::IsAnswered);
}

#[test]
fn a_body_that_is_finished_and_kept() {
    bodies("/finish/7?ms=20", Next::IsAnswered);
}

#[test]
fn a_body_that_is_echoed() {
    must_all_be_good(some(), |case| {
        let mut wire = case.connect_first_or_later()?;
        for _ in 0..2 {
            let body = REQUEST.repeat(1 + case.dice.below(3_000));
            let head = format!(
                "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let (first, rest) = body.split_at(case.dice.below(body.len()));
            let sent = wire.send(format!("{head}{first}").as_bytes());
            case.pause();
            sent.and_then(|()| wire.send(rest.as_bytes()))
                .map_err(|outcome| format!("{outcome:?}"))?;
            case.expect(wire.response(), &body)?;
        }
        case.end(wire)
    });
}
