mod answers;
mod attempts;
mod bounds;
mod resolution;
mod sockets;
mod world;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentguard_model::{HostName, ReasonCode, Transport};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, HTTPS, SVCB, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::*;
use crate::port::Addresses;
use crate::virtual_addresses::Range;
use world::{AGENT, NETNS, NameServer, Rule, Script, World, alias, query};

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn host(text: &str) -> HostName {
    text.parse().unwrap()
}

async fn all_of<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs = Vec::new();
    // Each is polled from the start, so that they run side by side.
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in futures.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *slot = Some(output);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    outputs.extend(done.into_iter().flatten());
    outputs
}
