//! What the client takes for an answer over HTTP/1.1.

/// Is this the whole answer? Anything but `200` with this body is an error.
pub(crate) fn is_complete(bytes: &[u8], expected: &[u8]) -> Result<bool, String> {
    let Some(head) = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|end| end + 4)
    else {
        return Ok(false);
    };
    let (head, body) = bytes.split_at(head);
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(format!("not a 200: {}", head.escape_ascii()));
    }
    let length = content_length(head)
        .ok_or_else(|| format!("no content-length: {}", head.escape_ascii()))?;
    if body.len() < length {
        return Ok(false);
    }
    if body.len() > length || body.trim_ascii_end() != expected {
        let beginning = &body[..body.len().min(200)];
        return Err(format!("not the body: {}", beginning.escape_ascii()));
    }
    Ok(true)
}

fn content_length(head: &[u8]) -> Option<usize> {
    let lines = head.split(|&byte| byte == b'\n').skip(1);
    let value = lines
        .filter_map(|line| line.split_at_checked(NAME.len()))
        .find(|(name, _)| name.eq_ignore_ascii_case(NAME))?
        .1;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// The answer to `GET /` of every server.
pub(crate) const HELLO: &[u8] = b"hello world";
const NAME: &[u8] = b"content-length:";
