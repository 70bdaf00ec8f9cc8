//! A file of table tests as it is written. Raw: [`super::load`] turns it into tests that can be run.

use std::collections::BTreeMap;
use std::fmt;

use agentguard_model::{Handling, LlmOperation, ReasonCode};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::document::RawTransport;
use crate::yaml::At;

/// Tests of a policy.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a file of tests")]
#[schemars(rename = "PolicyTests")]
pub(crate) struct RawTable {
    /// The version of the file's form: 1.
    #[schemars(range(min = 1, max = 1))]
    pub(crate) version: At<u64>,
    /// The policy, relative to this file. If absent, `NAME.test.yaml` is about `NAME.yaml` beside it.
    #[serde(default)]
    pub(crate) policy: Option<At<String>>,
    /// The tests.
    pub(crate) tests: At<Vec<At<RawTest>>>,
}

/// Something that an agent attempts, and what should become of it.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a test")]
#[schemars(rename = "Test")]
pub(crate) struct RawTest {
    /// What it shows, in words; each test has its own.
    pub(crate) name: At<String>,
    /// The agent that attempts it.
    pub(crate) agent: At<String>,
    /// The name it goes to. Instead of `ip` and `resolve`.
    #[serde(default)]
    pub(crate) host: Option<At<String>>,
    /// The address it goes to, dialled bare. Instead of `host` and `resolve`.
    #[serde(default)]
    pub(crate) ip: Option<At<String>>,
    /// A name that is only resolved: is it answered? Instead of `host` and `ip`.
    #[serde(default)]
    pub(crate) resolve: Option<At<String>>,
    /// A message to a server of tools on the agent's own host, which goes over no network. Instead of `host`, `ip` and
    /// `resolve`.
    #[serde(default)]
    pub(crate) local_tool: Option<At<RawMessage>>,
    /// The address behind the name. If absent, one that no rule speaks of. Required where denials speak of every
    /// address of IPv4, and the verdict depends on it.
    #[serde(default)]
    pub(crate) resolves_to: Option<At<String>>,
    /// The port. With `host` or `ip`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub(crate) port: Option<At<u16>>,
    /// On whose behalf, as the context of a run says it. Nobody's, if absent.
    #[serde(default)]
    pub(crate) context: Option<At<RawContext>>,
    /// Labels of the run, over those of the agent.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// When, as in RFC 3339. A Wednesday at noon, UTC, if absent.
    #[serde(default)]
    pub(crate) time: Option<At<String>>,
    /// What operators have switched. Others are as the policy declares them.
    #[serde(default)]
    pub(crate) switches: BTreeMap<String, At<bool>>,
    /// What carries it. `tcp` if absent.
    #[serde(default)]
    pub(crate) transport: Option<At<RawTransport>>,
    /// The HTTP request that is sent. If absent, the flow is tested as it begins, before anything is
    /// sent.
    #[serde(default)]
    pub(crate) request: Option<At<RawRequest>>,
    /// Whether what is sent shows no request and never will: it is no HTTP, or in TLS that nobody
    /// opens. `false` if absent. Instead of `request`.
    #[serde(default)]
    pub(crate) opaque: Option<At<bool>>,
    /// What should become of it.
    #[schemars(with = "RawExpect", required)]
    pub(crate) expect: Option<At<RawExpect>>,
}

/// On whose behalf an agent acts.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Context")]
pub(crate) struct RawContext {
    /// The user.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// The session.
    #[serde(default)]
    pub(crate) session: Option<String>,
    /// The workflow.
    #[serde(default)]
    pub(crate) workflow: Option<String>,
    /// The purpose.
    #[serde(default)]
    pub(crate) purpose: Option<String>,
}

/// An HTTP request.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a request")]
#[schemars(rename = "Request")]
pub(crate) struct RawRequest {
    /// Its method.
    pub(crate) method: At<String>,
    /// Its path as the client sends it, without the query: rules see it as the proxy reads it. For
    /// `CONNECT` the destination.
    pub(crate) path: At<String>,
    /// Its query, without the `?`.
    #[serde(default)]
    pub(crate) query: Option<At<String>>,
    /// Its header fields.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, At<String>>,
    /// How much content it has, in bytes or with `KiB`, `MiB` or `GiB`. None if absent.
    #[serde(default)]
    #[schemars(with = "Option<crate::document::RawSize>")]
    pub(crate) body: Option<At<String>>,
    /// Whether it opens a WebSocket.
    #[serde(default)]
    pub(crate) websocket: Option<At<bool>>,
    /// Whether it is sent inside TLS: then rules see it only where one that allows it says
    /// `handling: inspect`. If absent, `https` to port 443 and `http` to others.
    #[serde(default)]
    pub(crate) scheme: Option<Scheme>,
    /// The call of a language model that it is. None, if absent.
    #[serde(default)]
    pub(crate) llm: Option<At<RawCall>>,
    /// The message to a server of tools that it is. None, if absent.
    #[serde(default)]
    pub(crate) tool: Option<At<RawMessage>>,
}

/// A message to a server of tools, as the guard reads it. `{}` is what opens a stream or ends a session.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a message to a server of tools")]
#[schemars(rename = "Message")]
pub(crate) struct RawMessage {
    /// The server. If absent, the one that answers at the host and path.
    #[serde(default)]
    pub(crate) server: Option<At<String>>,
    /// The tool that is called.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// Its arguments, by JSON Pointer.
    #[serde(default)]
    pub(crate) arguments: BTreeMap<String, At<String>>,
    /// What else is asked for: the method, like `resources/read`.
    #[serde(default)]
    pub(crate) method: Option<At<String>>,
    /// Which requests of the server it answers: methods, like `sampling/createMessage`.
    #[serde(default)]
    pub(crate) answers: Vec<String>,
    /// Whether it cannot be read, so that nothing is known of it but the server.
    #[serde(default)]
    pub(crate) not_understood: Option<At<bool>>,
}

/// A call of a language model, as the guard reads it.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a call of a language model")]
#[schemars(rename = "Call")]
pub(crate) struct RawCall {
    /// The provider. If absent, the one that answers at the host.
    #[serde(default)]
    pub(crate) provider: Option<At<String>>,
    /// What it is for.
    pub(crate) operation: LlmOperation,
    /// The model asked for.
    #[serde(default)]
    pub(crate) model: Option<String>,
    /// Whether the answer is to come as a stream.
    #[serde(default)]
    pub(crate) stream: bool,
    /// The most tokens that the answer may have. It does not say, if absent.
    #[serde(default)]
    pub(crate) max_output_tokens: Option<u64>,
    /// The tools that are offered to the model, by name.
    #[serde(default)]
    pub(crate) tools: Vec<String>,
    /// The tools that the model asks to call, by name, where it is the answer that is decided.
    #[serde(default)]
    pub(crate) asks: Vec<String>,
    /// Whether it cannot be read, so that nothing is known of it but provider and operation.
    #[serde(default)]
    pub(crate) not_understood: Option<At<bool>>,
    /// Whether it is none yet, but the opening of a WebSocket for calls, each of which is decided by itself.
    #[serde(default)]
    pub(crate) opens: Option<At<bool>>,
}

impl RawCall {
    /// Whether it opens a connection for calls.
    pub(crate) fn opens(&self) -> bool {
        self.opens.as_ref().is_some_and(|it| it.value)
    }
}

/// Whether a request is sent inside TLS.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scheme {
    /// Inside TLS.
    Https,
    /// In the clear.
    Http,
}

/// The verdict that is expected.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// The policy allows it.
    Allow,
    /// It allows it with changes.
    Modify,
    /// It denies it: also where the mode lets it pass all the same.
    Deny,
    /// It wants to see the request first.
    NeedsRequest,
}

/// The words of [`Expected`].
const WORDS: [&str; 4] = ["allow", "modify", "deny", "needs_request"];

/// What should become of it: the verdict, or several things.
#[derive(Debug, JsonSchema)]
#[schemars(untagged, rename = "Expectation")]
pub(crate) enum RawExpect {
    /// The verdict.
    Verdict(Expected),
    /// All of these.
    All(RawExpectation),
}

impl<'de> Deserialize<'de> for RawExpect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RawExpect;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("allow, modify, deny, needs_request, or keys and values")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<RawExpect, E> {
                Ok(RawExpect::Verdict(match word {
                    "allow" => Expected::Allow,
                    "modify" => Expected::Modify,
                    "deny" => Expected::Deny,
                    "needs_request" => Expected::NeedsRequest,
                    _ => return Err(E::unknown_variant(word, &WORDS)),
                }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawExpect, A::Error> {
                RawExpectation::deserialize(MapAccessDeserializer::new(map)).map(RawExpect::All)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Several things that are expected. Those that are absent do not matter.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "what is expected")]
#[schemars(rename = "Expectations")]
pub(crate) struct RawExpectation {
    /// The verdict.
    #[serde(default)]
    pub(crate) verdict: Option<Expected>,
    /// Whether the verdict is carried out: `false` for what the mode of the agent or of the rule lets
    /// pass.
    #[serde(default)]
    pub(crate) enforced: Option<bool>,
    /// How it is carried. Only what goes on has one.
    #[serde(default)]
    pub(crate) handling: Option<Handling>,
    /// The rule that decides, by its id.
    #[serde(default)]
    pub(crate) rule: Option<At<String>>,
    /// The stable code of the reason.
    #[serde(default)]
    pub(crate) reason: Option<ReasonCode>,
}
