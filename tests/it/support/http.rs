//! A minimal HTTP/1.1 client: enough to ask one question and read the answer.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    time::Duration,
};

/// A client gives up after this.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    /// The first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// The `x-worker` of every route of `playground`.
    pub fn worker(&self) -> u32 {
        self.header("x-worker").unwrap().parse().unwrap()
    }

    /// The `x-pid` of every route of `playground`.
    pub fn pid(&self) -> u32 {
        self.header("x-pid").unwrap().parse().unwrap()
    }
}

/// Asks on a new connection (`127.0.0.1:PORT` or `unix:/path`) and panics when there is no answer.
pub fn get(addr: &str, path: &str) -> Response {
    try_get(addr, path).unwrap_or_else(|error| panic!("GET {path} of {addr}: {error}"))
}

/// Asks on a new connection.
pub fn try_get(addr: &str, path: &str) -> io::Result<Response> {
    request(addr, "GET", path, &[], "")
}

/// Asks anything on a new connection.
pub fn request(
    addr: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Response> {
    let mut conn = Conn::open(addr)?;
    conn.ask(method, path, headers, body)?;
    conn.response()
}

/// A connection that stays open.
pub struct Conn {
    stream: BufReader<Stream>,
}

impl Conn {
    pub fn open(addr: &str) -> io::Result<Self> {
        let stream = match addr.strip_prefix("unix:") {
            Some(path) => Stream::Unix(UnixStream::connect(path)?),
            None => Stream::Tcp(TcpStream::connect(addr)?),
        };
        let conn = Self {
            stream: BufReader::new(stream),
        };
        conn.set_timeout(TIMEOUT)?;
        Ok(conn)
    }

    pub fn set_timeout(&self, time: Duration) -> io::Result<()> {
        match self.stream.get_ref() {
            Stream::Tcp(stream) => stream
                .set_read_timeout(Some(time))
                .and_then(|()| stream.set_write_timeout(Some(time))),
            Stream::Unix(stream) => stream
                .set_read_timeout(Some(time))
                .and_then(|()| stream.set_write_timeout(Some(time))),
        }
    }

    /// The client's own address; empty on a unix socket.
    pub fn local_addr(&self) -> String {
        match self.stream.get_ref() {
            Stream::Tcp(stream) => stream
                .local_addr()
                .map(|addr| addr.to_string())
                .unwrap_or_default(),
            Stream::Unix(_) => String::new(),
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Sends a request.
    pub fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<()> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
        headers
            .iter()
            .for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        if !body.is_empty() {
            head += &format!("content-length: {}\r\n", body.len());
        }
        self.send(format!("{head}\r\n{body}"))
    }

    /// Reads one answer to its end.
    pub fn response(&mut self) -> io::Result<Response> {
        let mut response = self.head()?;
        let mut body = Vec::new();
        if response
            .header("transfer-encoding")
            .is_some_and(|value| value.contains("chunked"))
        {
            while let Some(chunk) = self.chunk()? {
                body.extend(chunk);
            }
        } else if let Some(length) = response.header("content-length") {
            body.resize(length.parse().map_err(|_| malformed(length))?, 0);
            self.stream.read_exact(&mut body)?;
        } else {
            self.stream.read_to_end(&mut body)?;
        }
        response.body = String::from_utf8_lossy(&body).into_owned();
        Ok(response)
    }

    /// Reads an answer's head alone.
    pub fn head(&mut self) -> io::Result<Response> {
        let first = self.line()?;
        let status = first
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| malformed(&first))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response {
                    status,
                    headers,
                    body: String::new(),
                });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads one chunk of a chunked body; `None` at its last.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let length = usize::from_str_radix(&line, 16).map_err(|_| malformed(&line))?;
        let mut chunk = vec![0; length];
        self.stream.read_exact(&mut chunk)?;
        self.line()?;
        Ok((length > 0).then_some(chunk))
    }

    /// Says that nothing more will be sent.
    pub fn shut_down_writing(&self) -> io::Result<()> {
        match self.stream.get_ref() {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Reads to the end of the connection.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed: {what:?}"))
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
