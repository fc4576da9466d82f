//! What workers and the primary say to each other.

use std::{
    fmt,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The largest message, in bytes as encoded.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// A message that arrived: JSON sent with `send`, or raw bytes sent with `send_bytes`.
///
/// Delivery is at most once, in order for each sender and receiver, without gaps as long as both live.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let message = axum_cluster::Message::encode(&serde_json::json!({"cmd": "notifyRequest"}))?;
/// #[derive(serde::Deserialize)]
/// struct Command<'a> {
///     cmd: &'a str,
/// }
/// let command: Command = message.json()?;
/// assert_eq!(command.cmd, "notifyRequest");
/// # Ok(())
/// # }
/// ```
///
/// One that came by `request` waits for an answer: see [`reply`](Self::reply). Cheap to clone; clones are the same message, so there is
/// one answer and one set of descriptors for all of them. Equal are messages of equal bytes.
#[derive(Clone)]
pub struct Message {
    bytes: Bytes,
    /// What most messages do not have.
    with: Option<Arc<With>>,
}

/// What comes with a message beside its bytes.
struct With {
    fds: Mutex<Vec<OwnedFd>>,
    asked: Option<Asked>,
}

/// A request that has arrived. Dropped unanswered, it tells the asker.
struct Asked {
    asker: Box<dyn Asker>,
    answered: AtomicBool,
}

/// Whoever waits for an answer.
pub(crate) trait Asker: Send + Sync {
    /// Brings it.
    fn answer(&self, bytes: Bytes) -> Result<()>;

    /// There will be none.
    fn give_up(&self);
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !*self.answered.get_mut() {
            self.asker.give_up();
        }
    }
}

impl Message {
    /// Encodes a value as JSON, as `send` does.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] when the value cannot be written as JSON, [`Error::TooLarge`] past 64 MiB.
    pub fn encode(value: &impl Serialize) -> Result<Self> {
        Self::from_bytes(serde_json::to_vec(value).map_err(Error::Json)?)
    }

    /// Takes raw bytes as they are, as `send_bytes` does.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] past 64 MiB.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        if bytes.len() > MAX_MESSAGE {
            return Err(Error::TooLarge {
                size: bytes.len(),
                limit: MAX_MESSAGE,
            });
        }
        Ok(Self::received(bytes))
    }

    pub(crate) fn received(bytes: Bytes) -> Self {
        Self { bytes, with: None }
    }

    pub(crate) fn received_with(
        bytes: Bytes,
        fds: Vec<OwnedFd>,
        asker: Option<Box<dyn Asker>>,
    ) -> Self {
        let asked = asker.map(|asker| Asked {
            asker,
            answered: AtomicBool::new(false),
        });
        let with = (!fds.is_empty() || asked.is_some()).then(|| {
            Arc::new(With {
                fds: Mutex::new(fds),
                asked,
            })
        });
        Self { bytes, with }
    }

    /// Reads the message as JSON. What is read may borrow from it, as a `&str` (of a string without escapes) or a
    /// `Cow<str>`.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] when it is not JSON, or not of this type.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        // Looked at as a whole and not string by string, a small message costs 1,660 instructions from end to end instead of 1,750.
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(&self.bytes),
        }
        .map_err(Error::Json)
    }

    /// The message as it was sent, without decoding.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether its sender waits for an answer, and none has been given yet.
    pub fn is_request(&self) -> bool {
        self.asked()
            .is_some_and(|asked| !asked.answered.load(Relaxed))
    }

    /// Answers a message that was sent by `request`. Never waits.
    ///
    /// The first answer counts, whichever subscriber or clone gives it. A request of which every clone is dropped unanswered is
    /// [`Error::NoReply`] for the asker; an answer for which the asker waits no more is thrown away there.
    ///
    /// ```no_run
    /// # use axum_cluster::{ClusteredServer, Worker};
    /// # let app = axum::Router::new();
    /// // In a worker.
    /// async fn ask(worker: Worker) -> axum_cluster::Result<String> {
    ///     let answer = worker.request(&"how many?").await?;
    ///     Ok(format!("the primary counts {}", answer.json::<u32>()?))
    /// }
    /// // In the primary.
    /// ClusteredServer::bind("127.0.0.1:8000")
    ///     .on_message(|_, message| {
    ///         if let Err(error) = message.reply(&42) {
    ///             eprintln!("no answer: {error}");
    ///         }
    ///     })
    ///     .serve(app);
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotAsked`] when it is no request or has been answered, [`Error::Full`] and [`Error::Gone`] as with `send`,
    /// [`Error::Json`] and [`Error::TooLarge`] as in [`encode`](Self::encode). After any but the first it may be tried again.
    pub fn reply(&self, value: &impl Serialize) -> Result<()> {
        self.answer(&Self::encode(value)?)
    }

    /// Answers with bytes as they are; as [`reply`](Self::reply) otherwise.
    ///
    /// # Errors
    ///
    /// As [`reply`](Self::reply), without `Json`.
    pub fn reply_bytes(&self, bytes: impl Into<Bytes>) -> Result<()> {
        self.answer(&Self::from_bytes(bytes)?)
    }

    fn answer(&self, answer: &Self) -> Result<()> {
        let asked = self.asked().ok_or(Error::NotAsked)?;
        if asked.answered.swap(true, Relaxed) {
            return Err(Error::NotAsked);
        }
        asked
            .asker
            .answer(answer.bytes.clone())
            .inspect_err(|_| asked.answered.store(false, Relaxed))
    }

    /// The descriptors that came with it, in the order in which they were given to `send_with`; nothing when they have been taken.
    ///
    /// What nobody takes is closed with the message.
    pub fn take_fds(&self) -> Vec<OwnedFd> {
        self.fds(std::mem::take).unwrap_or_default()
    }

    /// Looks at the descriptors that have not been taken.
    pub(crate) fn fds<T>(&self, look: impl FnOnce(&mut Vec<OwnedFd>) -> T) -> Option<T> {
        let with = self.with.as_ref()?;
        Some(look(
            &mut with.fds.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    fn asked(&self) -> Option<&Asked> {
        self.with.as_ref()?.asked.as_ref()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fds = self.fds(|fds| fds.len()).unwrap_or(0);
        f.debug_struct("Message")
            .field("bytes", &self.bytes)
            .field("fds", &fds)
            .field("is_request", &self.is_request())
            .finish()
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Message {}

/// One request that a worker has answered, as `on_request` sees it in the primary.
///
/// Sent after the response, many in one datagram, at most 10 ms later. A worker that is killed takes what it had not sent with it;
/// when the primary falls more than 4 MiB behind, notices are dropped (the scoreboard's totals stay exact).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestNotice {
    /// The request's method.
    pub method: http::Method,
    /// The route's pattern, as in `"/users/{id}"`; `None` where no route matched or the app is no axum router. To find it out costs
    /// more, about 7 % of a small request, where the path is not the route itself.
    pub route: Option<Arc<str>>,
    /// The response's status.
    pub status: http::StatusCode,
    /// From the request reaching the service to its response's head.
    pub elapsed: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Command<'a> {
        cmd: &'a str,
    }

    fn command(bytes: &'static [u8]) -> Message {
        Message::received(Bytes::from_static(bytes))
    }

    #[test]
    fn json_is_read_whatever_stands_where_nobody_looks() {
        let text = command(b"{\"cmd\":\"go\",\"rest\":\"\xc3\xa9\"}");
        assert_eq!(text.json::<Command<'_>>().unwrap().cmd, "go");
        let no_text = command(b"{\"cmd\":\"go\",\"rest\":\"\xff\"}");
        assert_eq!(no_text.json::<Command<'_>>().unwrap().cmd, "go");
    }

    #[test]
    fn what_is_no_text_is_an_error_where_text_is_wanted() {
        for bytes in [&b"{\"cmd\":\"\xff\"}"[..], b"\xff", b""] {
            let read = command(bytes);
            assert!(matches!(read.json::<Command<'_>>(), Err(Error::Json(_))));
        }
    }
}
