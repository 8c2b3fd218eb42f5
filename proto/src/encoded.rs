//! What servers send in place of a message when a part of it goes to many: that part is encoded once, for all of them.
//! On the wire a message within a message looks like its bytes, so receivers see no difference.

use prost::Message;
use prost::bytes::Bytes;

use crate::v1;

/// [`v1::WatchJobResponse`] with its event encoded.
#[derive(Clone, PartialEq, Message)]
pub struct WatchJobResponse {
    /// The event; absent in a heartbeat.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub event: Option<Bytes>,
}

impl From<v1::JobEvent> for WatchJobResponse {
    fn from(event: v1::JobEvent) -> Self {
        Self { event: Some(event.encode_to_vec().into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_see_no_difference() {
        let phase = v1::Phase { name: "training".into(), detail: "3 of 9".into() };
        let event = v1::JobEvent { sequence: 7, event: Some(v1::job_event::Event::Phase(phase)), ..Default::default() };
        let sent = WatchJobResponse::from(event.clone()).encode_to_vec();
        let plain = v1::WatchJobResponse { event: Some(event) };
        assert_eq!(sent, plain.encode_to_vec());
        assert_eq!(v1::WatchJobResponse::decode(&sent[..]).unwrap(), plain);
        assert_eq!(WatchJobResponse::default().encode_to_vec(), v1::WatchJobResponse::default().encode_to_vec());
    }
}
