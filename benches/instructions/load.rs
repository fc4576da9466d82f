//! The client: so many requests over so many connections that stay open, one a connection at a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::Result;

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nhost: localhost\r\nuser-agent: instructions\r\naccept: */*\r\n\r\n";
const BODY: &[u8] = b"hello world";

/// Asks on all connections, then reads all answers, and so on: every turn of the server has as much to do.
pub(crate) fn ask(address: SocketAddr, requests: usize, connections: usize) -> Result<()> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60)))?;
        streams.push(stream);
    }
    let mut buffer = [0; 1024];
    for _ in 0..requests / connections {
        for stream in &mut streams {
            stream.write_all(REQUEST)?;
        }
        for stream in &mut streams {
            let mut len = 0;
            while !buffer[..len].ends_with(BODY) {
                let read = stream.read(&mut buffer[len..])?;
                if read == 0 || len + read == buffer.len() {
                    return Err("not the answer that was asked for".into());
                }
                len += read;
            }
            if !buffer.starts_with(b"HTTP/1.1 200 OK\r\n") {
                return Err("not the answer that was asked for".into());
            }
        }
    }
    Ok(())
}
