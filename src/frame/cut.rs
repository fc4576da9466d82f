//! The payload of a [`Frame::Cut`](super::Frame::Cut): how many requests were cut at the drain deadline, and the oldest of them.

use std::time::Duration;

use http::Method;

use super::{Malformed, array};
use crate::event::{CutRequest, Cuts};

/// Longer names of methods are nobody's; the primary need not keep them.
const MAX_METHOD: usize = 32;

pub(crate) fn encode_cuts(cuts: &Cuts) -> Vec<u8> {
    let mut payload = cuts.total.to_le_bytes().to_vec();
    for CutRequest { method, path, age } in &cuts.oldest {
        let method = method.as_str();
        let method = &method[..method.len().min(MAX_METHOD)];
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        payload.push(method.len() as u8);
        payload.extend_from_slice(method.as_bytes());
        payload.extend_from_slice(&age.to_le_bytes());
        // Never longer than `CutRequest` lets it be.
        payload.extend_from_slice(&(path.len() as u16).to_le_bytes());
        payload.extend_from_slice(path.as_bytes());
    }
    payload
}

/// A worker's word is taken for no more than it can be: so many, so long, and nothing in it that would write lines of its own into a
/// log.
pub(crate) fn decode_cuts(mut payload: &[u8]) -> Result<Cuts, Malformed> {
    let payload = &mut payload;
    let total = array(payload).map(u64::from_le_bytes).ok_or(Malformed)?;
    let mut oldest = Vec::new();
    while !payload.is_empty() {
        oldest.push(decode_cut(payload).ok_or(Malformed)?);
        if oldest.len() > Cuts::NAMED || oldest.len() as u64 > total {
            return Err(Malformed);
        }
    }
    Ok(Cuts { total, oldest })
}

fn decode_cut(payload: &mut &[u8]) -> Option<CutRequest> {
    let method = usize::from(*payload.split_off_first()?);
    if method > MAX_METHOD {
        return None;
    }
    let method = Method::from_bytes(payload.split_off(..method)?).ok()?;
    let age = Duration::from_millis(u64::from_le_bytes(array(payload)?));
    let path = usize::from(u16::from_le_bytes(array(payload)?));
    let path = str::from_utf8(payload.split_off(..path)?).ok()?;
    let cut = CutRequest::new(method, path, age);
    (cut.path.len() == path.len() && !path.contains(char::is_control)).then_some(cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cuts(paths: &[&str]) -> Cuts {
        Cuts {
            total: 16 + paths.len() as u64,
            oldest: paths
                .iter()
                .map(|path| CutRequest {
                    method: Method::POST,
                    path: (*path).to_owned(),
                    age: Duration::from_millis(30_250),
                })
                .collect(),
        }
    }

    #[test]
    fn cuts_come_back_as_they_were() {
        for paths in [&[][..], &["/"], &["/slow", "", "/é", "*"], &["/x"; 16]] {
            assert_eq!(decode_cuts(&encode_cuts(&cuts(paths))), Ok(cuts(paths)));
        }
    }

    #[test]
    fn what_no_worker_of_this_version_says_is_malformed() {
        let long = "/".repeat(257);
        for paths in [
            &["/x"; 17][..],
            &["/\nERROR all is lost"],
            &["/\x1b[2J"],
            &[&long],
        ] {
            assert_eq!(
                decode_cuts(&encode_cuts(&cuts(paths))),
                Err(Malformed),
                "{paths:?}"
            );
        }
        let more_than_counted = Cuts {
            total: 1,
            ..cuts(&["/"; 2])
        };
        assert_eq!(
            decode_cuts(&encode_cuts(&more_than_counted)),
            Err(Malformed)
        );
        let whole = encode_cuts(&cuts(&["/slow"]));
        for end in (0..whole.len()).filter(|&end| end != 8) {
            assert_eq!(decode_cuts(&whole[..end]), Err(Malformed), "{end}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_cuts(&bytes);
        }
    }
}
