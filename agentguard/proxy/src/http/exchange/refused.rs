//! Requests that no rule denies, and that are not carried all the same.

use agentguard_decision::Recorder;
use agentguard_model::{ActionKind, ReasonCode};
use agentguard_protocol::HttpMalformed;
use agentguard_protocol::refusal::Refusal;
use http::{Response, StatusCode};

use super::{Exchange, Failed, chain, close};
use crate::Port;
use crate::account::Account;
use crate::http::body::Answer;
use crate::http::call::Unread;
use crate::http::gated::Stop;
use crate::http::tongue::{Tongue, refuse};
use crate::http::upstream::SendFailed;

impl<R: Recorder, P: Port> Exchange<R, P> {
    /// Tells the client of an allowed request why it is not answered by its upstream.
    pub(super) fn failed(
        &self,
        account: &Account<R>,
        failed: Failed,
        tongue: &Tongue,
    ) -> Response<Answer<R>> {
        account.fail(failed.message.clone());
        // An upstream that waits in vain for what its client is to send gives up as any would.
        if !failed.is_upstreams() || account.is_waiting() {
            account.decided().says_nothing();
        }
        let reason = agentguard_model::Reason::new(failed.code, failed.message);
        tongue.tell(&Refusal {
            status: failed.status,
            reason: &reason,
            decision: account.decided().id,
            spent: None,
            retry_after: None,
        })
    }

    pub(super) async fn refuse_unread(
        &self,
        kind: ActionKind,
        unread: Unread,
        tongue: &Tongue,
    ) -> Response<Answer<R>> {
        let (code, status, message) = match unread {
            Unread::Late => (
                ReasonCode::ClientTimeout,
                StatusCode::REQUEST_TIMEOUT,
                "the client did not send the content of its call in time".to_owned(),
            ),
            Unread::Broken(error) => (
                ReasonCode::HttpMalformed,
                StatusCode::BAD_REQUEST,
                format!("the content of the call broke off: {}", chain(&error)),
            ),
        };
        let decided = self.flow.refuse(kind, code, message).await;
        let mut response = refuse(&decided, status, tongue);
        if !self.is_http2() {
            close(&mut response);
        }
        response
    }

    /// Where this connection may go was looked up under another policy. It is being closed; this
    /// request was faster, and a client may send it again on another connection (RFC 9110, 15.5.20).
    pub(super) async fn refuse_stale(&self, tongue: &Tongue) -> Response<Answer<R>> {
        let message = "the policy changed after the connection was opened: connect again";
        let code = ReasonCode::PolicyChanged;
        let decided = self.flow.refuse(ActionKind::HttpRequest, code, message);
        let mut response = refuse(&decided.await, StatusCode::MISDIRECTED_REQUEST, tongue);
        if !self.is_http2() {
            close(&mut response);
        }
        response
    }

    pub(super) async fn refuse_malformed(
        &self,
        why: &HttpMalformed,
        tongue: &Tongue,
    ) -> Response<Answer<R>> {
        let code = match why {
            HttpMalformed::Connect => ReasonCode::ProtocolNotSupported,
            _ => ReasonCode::HttpMalformed,
        };
        let kind = ActionKind::HttpRequest;
        let decided = self.flow.refuse(kind, code, why.to_string()).await;
        let mut response = refuse(&decided, why.status(), tongue);
        if !self.is_http2() {
            close(&mut response);
        }
        response
    }

    pub(super) fn explain(&self, failed: SendFailed) -> Failed {
        if let Some(Stop::Refused(refused)) = self.signals.stop() {
            return Failed {
                status: refused.why.status(),
                code: ReasonCode::HttpMalformed,
                message: refused.why.to_string(),
                unsent: false,
            };
        }
        match failed {
            SendFailed::Unreachable(reason) => {
                Failed::bad_gateway(reason.code, reason.message).unsent()
            }
            SendFailed::Broken(error) => {
                let message = format!("the upstream broke off: {}", chain(error.as_ref()));
                Failed::bad_gateway(ReasonCode::UpstreamUnreachable, message)
            }
        }
    }
}
