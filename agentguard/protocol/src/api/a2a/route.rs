//! Which operation a request of HTTP+JSON is, and where agents have their cards.

use ::http::Method;
use percent_encoding::percent_decode_str;

use super::Operation;
use crate::api::NotUnderstood;

/// The longest id of a task, or of a configuration, that is read in a path, in bytes. A longer one is not understood.
const MAX_ID: usize = 256;

/// What stands before the cards of agents (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// The names of cards: that of 0.3 and later, and that of what was before.
const CARDS: [&str; 2] = ["agent-card.json", "agent.json"];

/// What a request is, by its method and its path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Route {
    /// It asks for the agent's card.
    Card,
    /// It is an operation of HTTP+JSON.
    Rest {
        /// Which.
        operation: Operation,
        /// The parameters that its path has.
        parameters: Vec<(String, String)>,
    },
    /// Its content says what it is: JSON-RPC.
    JsonRpc,
}

impl Route {
    /// What a request with this canonical path is, below whatever the server has its operations.
    ///
    /// # Errors
    /// It is no operation, or some servers may take it for another one.
    pub fn read(method: &Method, path: &str) -> Result<Self, NotUnderstood> {
        let all = readings(method, path);
        let loose = percent_decode_str(path).decode_utf8_lossy();
        let loose = loose.replace('\\', "/").to_ascii_lowercase();
        let loose: Vec<&str> = loose
            .split('/')
            .map(|segment| segment.split(';').next().unwrap_or_default())
            .filter(|segment| !segment.is_empty())
            .collect();
        let loose = readings(method, &loose.join("/"));
        let same = all.len() == loose.len() && {
            let mut pairs = all.iter().zip(&loose);
            pairs.all(|(one, other)| one.is_same(other))
        };
        let mut all = all.into_iter();
        match (all.next(), all.next()) {
            (Some(one), None) if same => Ok(one),
            (None, _) if same && *method == Method::POST => Ok(Self::JsonRpc),
            (None, _) if same => Err(NotUnderstood::Operation),
            _ => Err(NotUnderstood::Operations),
        }
    }

    /// Whether another one is the same operation.
    fn is_same(&self, other: &Self) -> bool {
        let operation = |route: &Self| match route {
            Self::Rest { operation, .. } => Some(*operation),
            Self::Card | Self::JsonRpc => None,
        };
        operation(self) == operation(other)
    }
}

/// All that a method and a path may be.
fn readings(method: &Method, path: &str) -> Vec<Route> {
    let mut segments = path.rsplit('/');
    // The last ones, from the end on.
    let last: [&str; 4] = std::array::from_fn(|_| segments.next().unwrap_or_default());
    let [end, before, third, fourth] = last;
    let mut found = Vec::new();
    if before.eq_ignore_ascii_case(WELL_KNOWN) && CARDS.contains(&end) {
        if [Method::GET, Method::HEAD].contains(method) {
            found.push(Route::Card);
        }
        return found;
    }
    let mut put = |operation: Operation, parameters: &[(&str, &str)]| {
        if !parameters.iter().all(|(_, id)| is_id(id)) {
            return;
        }
        let parameters = parameters.iter();
        found.push(Route::Rest {
            operation,
            parameters: parameters
                .map(|(name, id)| ((*name).to_owned(), (*id).to_owned()))
                .collect(),
        });
    };
    let (get, post) = (*method == Method::GET, *method == Method::POST);
    match (before, end) {
        (_, "message:send") if post => put(Operation::SendMessage, &[]),
        (_, "message:stream") if post => put(Operation::SendStreamingMessage, &[]),
        (_, "tasks") if get => put(Operation::ListTasks, &[]),
        // In lower case it is one of a reading that looks at no case.
        (_, "extendedAgentCard" | "extendedagentcard")
        | ("v1", "card")
        | ("agent", "authenticatedExtendedCard" | "authenticatedextendedcard")
            if get =>
        {
            put(Operation::GetExtendedAgentCard, &[]);
        }
        _ => {}
    }
    if before == "tasks" {
        match end.split_once(':') {
            None if get => put(Operation::GetTask, &[("id", end)]),
            Some((id, "cancel")) if post => put(Operation::CancelTask, &[("id", id)]),
            // Servers take both.
            Some((id, "subscribe")) if get || post => {
                put(Operation::SubscribeToTask, &[("id", id)]);
            }
            _ => {}
        }
    }
    let configs = |segment: &str| segment.eq_ignore_ascii_case("pushNotificationConfigs");
    if third == "tasks" && configs(end) {
        match get {
            true => put(
                Operation::ListTaskPushNotificationConfigs,
                &[("taskId", before)],
            ),
            false if post => put(
                Operation::CreateTaskPushNotificationConfig,
                &[("taskId", before)],
            ),
            false => {}
        }
    }
    if fourth == "tasks" && configs(before) {
        let parameters = [("taskId", third), ("id", end)];
        match get {
            true => put(Operation::GetTaskPushNotificationConfig, &parameters),
            false if *method == Method::DELETE => {
                put(Operation::DeleteTaskPushNotificationConfig, &parameters);
            }
            false => {}
        }
    }
    found
}

/// Whether a segment is an id that every server reads as it stands.
fn is_id(segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$'()*+,=@&".contains(&b);
    (1..=MAX_ID).contains(&segment.len()) && segment.bytes().all(plain)
}
