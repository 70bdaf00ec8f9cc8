//! What a document says of servers of tools, as it is written.

use std::collections::BTreeMap;

use agentguard_model::{ArgumentType, ToolApi};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::yaml::At;

/// A server of tools.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a server of tools")]
#[schemars(rename = "ToolServer")]
pub(crate) struct RawToolServer {
    /// Its name: 1 to 63 characters a-z 0-9 . _ -.
    #[schemars(regex(pattern = r"^[a-z0-9][a-z0-9._-]{0,62}$"))]
    pub(crate) name: At<String>,
    /// The form in which it is spoken to: `mcp`, `http`, `grpc`, `json_rpc`, `graphql` or `a2a`; `mcp_stdio` for a program that
    /// `agentguard mcp wrap` starts, `hook` for tools of the agent's own that it asks about by `agentguard hook`.
    pub(crate) api: At<ToolApi>,
    /// Where it answers, but for `mcp_stdio` and `hook`: names, exact, or `*.example.org` for all names below
    /// `example.org`.
    #[serde(default)]
    pub(crate) hosts: Option<At<Vec<At<String>>>>,
    /// At which paths of those. `*` stands for any run of characters within a segment, `**` for any number of
    /// segments. All, if absent.
    #[serde(default)]
    pub(crate) paths: Option<At<Vec<At<String>>>>,
    /// Which of its tools agents are shown. All, if absent. Of MCP alone.
    #[serde(default)]
    pub(crate) list: Listing,
    /// What happens where it lists a tool with another definition than it first did, or an agent has another card.
    /// `alert`, if absent.
    #[serde(default)]
    pub(crate) pin: Pinning,
    /// Which requests are which tools. Of `http` alone, which has to have some.
    #[serde(default)]
    pub(crate) tools: Option<At<Vec<At<RawRoute>>>>,
}

/// A tool of an HTTP API.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a tool")]
#[schemars(rename = "HttpTool")]
pub(crate) struct RawRoute {
    /// Its name: 1 to 256 bytes without spaces and control characters.
    pub(crate) name: At<String>,
    /// Methods of HTTP, in upper case.
    pub(crate) method: At<Vec<At<String>>>,
    /// A template of paths, such as `/repos/{owner}/issues`: a parameter is a segment, or a part of one beside text, as
    /// in `/reports/{id}.{format}`.
    pub(crate) path: At<String>,
    /// Arguments that are lists where they stand in the query or in a form, and may be there several times: by their names
    /// as they are written there, also with `[]` behind them.
    #[serde(default)]
    pub(crate) lists: Option<At<Vec<At<String>>>>,
    /// The types of arguments, by their names, of a list without `[]` and for each of its entries: `integer`, `number`,
    /// `boolean` or `string`. A call with something else cannot be read. What is not named may be anything, and is a text
    /// where it stands in the path, the query or a form.
    #[serde(default)]
    pub(crate) types: Option<At<BTreeMap<String, At<ArgumentType>>>>,
}

/// Which tools of a server agents are shown.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Listing {
    /// All that it lists.
    #[default]
    All,
    /// Those of which the policy allows calls.
    Allowed,
}

/// What happens where a server lists a tool with another definition than it first did.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Pinning {
    /// Nothing: definitions are not looked at.
    Off,
    /// It is recorded, with what differs, and the list goes on as it is.
    #[default]
    Alert,
    /// It is recorded, with what differs; agents are not shown the tool, and calls of it are denied, until an operator
    /// accepts the definition. Of the card of an agent: all calls to that.
    Deny,
}

/// A message to a server of tools. `{}` for any.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "ToolMatch")]
pub(crate) struct RawTool {
    /// Servers, by name; `*` stands for any run of characters.
    #[serde(default)]
    pub(crate) server: Option<At<Vec<At<String>>>>,
    /// Tools that are called, by name; `*` stands for any run of characters.
    #[serde(default)]
    pub(crate) name: Option<At<Vec<At<String>>>>,
    /// Arguments of calls, by JSON Pointer, each with the values that it may have; `*` stands for any run of
    /// characters. All of them must be there.
    #[serde(default)]
    pub(crate) arguments: Option<super::RawNamed>,
    /// What is asked for, and what is answered: methods, as `resources/read`; `*` stands for any run of characters.
    #[serde(default)]
    pub(crate) method: Option<At<Vec<At<String>>>>,
}
