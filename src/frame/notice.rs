//! The payload of a [`Frame::Notices`](super::Frame::Notices): requests answered, one after the other.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};

use super::{Malformed, array};
use crate::message::RequestNotice;

/// Appends one notice to the payload of a [`Frame::Notices`](super::Frame::Notices).
pub(crate) fn encode_notice(
    method: &Method,
    route: Option<&str>,
    status: StatusCode,
    elapsed: Duration,
    payload: &mut Vec<u8>,
) {
    let method = method.as_str().as_bytes();
    let method = &method[..method.len().min(255)];
    // u16::MAX stands for "no route"; a route is program text and far shorter.
    let route = route
        .map(str::as_bytes)
        .filter(|route| route.len() < usize::from(u16::MAX));
    payload.push(method.len() as u8);
    payload.extend_from_slice(method);
    payload.extend_from_slice(
        &route
            .map_or(u16::MAX, |route| route.len() as u16)
            .to_le_bytes(),
    );
    payload.extend_from_slice(route.unwrap_or_default());
    payload.extend_from_slice(&status.as_u16().to_le_bytes());
    payload.extend_from_slice(
        &u32::try_from(elapsed.as_micros())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
}

/// The notices in the payload of a [`Frame::Notices`](super::Frame::Notices), up to the first that is malformed.
pub(crate) fn notices(
    mut payload: &[u8],
) -> impl Iterator<Item = Result<RequestNotice, Malformed>> {
    let mut latest = None;
    std::iter::from_fn(move || {
        if payload.is_empty() {
            return None;
        }
        let notice = decode_notice(&mut payload, &mut latest);
        if notice.is_none() {
            payload = &[];
        }
        Some(notice.ok_or(Malformed))
    })
}

/// One route in a row after the other is the same memory: taken anew it costs 190 instructions.
fn decode_notice(payload: &mut &[u8], latest: &mut Option<Arc<str>>) -> Option<RequestNotice> {
    let &method_length = payload.split_off_first()?;
    let method = Method::from_bytes(payload.split_off(..usize::from(method_length))?).ok()?;
    let route = match u16::from_le_bytes(array(payload)?) {
        u16::MAX => None,
        length => {
            let route = payload.split_off(..usize::from(length))?;
            if latest
                .as_ref()
                .is_none_or(|known| known.as_bytes() != route)
            {
                *latest = Some(str::from_utf8(route).ok()?.into());
            }
            latest.clone()
        }
    };
    let status = StatusCode::from_u16(u16::from_le_bytes(array(payload)?)).ok()?;
    let elapsed = Duration::from_micros(u32::from_le_bytes(array(payload)?).into());
    Some(RequestNotice {
        method,
        route,
        status,
        elapsed,
    })
}
