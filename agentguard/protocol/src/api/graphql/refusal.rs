//! What a client of GraphQL is told when it is refused (GraphQL over HTTP, "Response").

use ::http::{HeaderMap, Response, StatusCode, header};
use bytes::Bytes;
use serde_json::json;

use crate::refusal::Refusal;

/// In what a client reads errors of its server.
const MEDIA: &str = "application/graphql-response+json";

/// Who asks, and how it reads errors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asker {
    /// Whether it takes [`MEDIA`], in which a status says something. Others look at the content alone, where the status is 200.
    statuses: bool,
    batch: bool,
}

impl Asker {
    /// Of a request with these fields. `batch`: it is a list of requests.
    #[must_use]
    pub fn new(fields: &HeaderMap, batch: bool) -> Self {
        let accepted = fields.get_all(header::ACCEPT).iter();
        let mut accepted = accepted.filter_map(|it| it.to_str().ok());
        Self {
            statuses: accepted.any(|it| it.to_ascii_lowercase().contains(MEDIA)),
            batch,
        }
    }

    /// A refusal as a document with an error.
    #[must_use]
    pub fn refused(&self, refusal: &Refusal<'_>) -> Response<Bytes> {
        let mut extensions = json!({
            "code": refusal.reason.code,
            "decision": refusal.decision.map(|id| id.to_string()),
        });
        if let (Some(spent), Some(members)) = (refusal.spent, extensions.as_object_mut()) {
            members.insert("budget".to_owned(), json!(spent));
        }
        let message = refusal.message();
        let error = json!({ "errors": [{ "message": message, "extensions": extensions }] });
        let body = if self.batch { json!([error]) } else { error };
        let media = if self.statuses {
            MEDIA
        } else {
            "application/json"
        };
        let mut response = refusal.with(media, body.to_string().into_bytes());
        if !self.statuses && refusal.is_ruled() {
            *response.status_mut() = StatusCode::OK;
        }
        response
    }
}
