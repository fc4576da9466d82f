//! What workers and the primary say to each other.

use std::time::Duration;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// The largest message, in bytes as encoded.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;

/// A message that arrived: JSON sent with `send`, or raw bytes sent with `send_bytes`.
///
/// Delivery is at most once, in order for each sender and receiver, without gaps as long as both live.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let message = axum_cluster::Message::encode(&serde_json::json!({"cmd": "notifyRequest"}))?;
/// #[derive(serde::Deserialize)]
/// struct Command {
///     cmd: String,
/// }
/// let command: Command = message.json()?;
/// assert_eq!(command.cmd, "notifyRequest");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Bytes,
}

impl Message {
    /// Encodes a value as JSON, as `send` does.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] when the value cannot be written as JSON, [`Error::TooLarge`] past 64 KiB.
    pub fn encode(value: &impl Serialize) -> Result<Self> {
        Self::from_bytes(serde_json::to_vec(value).map_err(Error::Json)?)
    }

    /// Takes raw bytes as they are, as `send_bytes` does.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] past 64 KiB.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        if bytes.len() > MAX_MESSAGE {
            return Err(Error::TooLarge {
                size: bytes.len(),
                limit: MAX_MESSAGE,
            });
        }
        Ok(Self { bytes })
    }

    pub(crate) fn received(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// Reads the message as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] when it is not JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.bytes).map_err(Error::Json)
    }

    /// The message as it was sent, without decoding.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// One request that a worker has answered, as `on_request` sees it in the primary.
///
/// Sent after the response, many in one datagram, at most 10 ms later. A worker that is killed takes what it had not sent with it;
/// when the primary falls more than 4 MiB behind, notices are dropped (the scoreboard's totals stay exact).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestNotice {
    /// The request's method.
    pub method: http::Method,
    /// The route's pattern, as in `"/users/{id}"`; `None` where no route matched or the app is no axum router.
    pub route: Option<String>,
    /// The response's status.
    pub status: http::StatusCode,
    /// From the request reaching the service to its response's head.
    pub elapsed: Duration,
}
