//! gRPC: the method that a request calls (gRPC over HTTP2, "Requests"). Messages are not read: what they mean stands in
//! definitions that the guard does not have.

use ::http::{HeaderMap, Method};
use agentguard_model::Tool;

use super::{NotUnderstood, named};
use crate::jsonrpc::is_word;
use crate::refusal::is_grpc;

/// The call that a request with a canonical path is: `package.Service/Method`.
///
/// # Errors
/// It is none.
pub fn call(
    server: &str,
    method: &Method,
    path: &str,
    fields: &HeaderMap,
) -> Result<Tool, NotUnderstood> {
    let name = path.strip_prefix('/').unwrap_or_default();
    let plain = |part: &str| !part.is_empty() && !part.contains(['/', '%']);
    let is_name = is_word(name)
        && name
            .split_once('/')
            .is_some_and(|(service, method)| plain(service) && plain(method));
    if *method != Method::POST || !is_grpc(fields) || !is_name {
        return Err(NotUnderstood::Form("gRPC"));
    }
    Ok(named(server, name))
}
