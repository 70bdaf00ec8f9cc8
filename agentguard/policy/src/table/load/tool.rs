//! Messages to servers of tools in tests.

use agentguard_model::{Argument, HostName, Tool};

use super::Checking;
use crate::diagnostic::{nearest, quoted};
use crate::load::tool::not_a_pointer;
use crate::table::document::RawMessage;
use crate::tool::CALL;
use crate::yaml::At;

impl Checking<'_> {
    /// A message, unless something is wrong with it. `told`: something is wrong with where it goes.
    pub(super) fn tool(
        &mut self,
        raw: &At<RawMessage>,
        host: Option<&HostName>,
        path: &str,
        told: bool,
    ) -> Option<Tool> {
        let message = &raw.value;
        let server = match &message.server {
            Some(name) => self.server(name),
            None => host
                .and_then(|host| self.policy.tool_server(host, path))
                .map(|server| server.name.clone()),
        };
        if server.is_none() && message.server.is_none() && !told && !self.partial {
            let what = "no server of tools answers there, so it is no message to one";
            let hint = "servers stand under `tool_servers` of the policy, with their hosts and paths; `server: files` says it here";
            self.error(raw.place, what, hint);
        }
        let not_understood = message.not_understood.as_ref().filter(|it| it.value);
        let says = message.name.is_some()
            || message.method.is_some()
            || !message.arguments.is_empty()
            || !message.answers.is_empty();
        if let (Some(not_understood), true) = (not_understood, says) {
            let what = "of a message that cannot be read nothing is known but the server";
            let hint = "leave `method`, `name`, `arguments` and `answers` out";
            self.error(not_understood.place, what, hint);
            return None;
        }
        let method = message.method.as_ref();
        let calls = message.name.is_some() || !message.arguments.is_empty();
        if let Some(method) = method.filter(|method| calls != (method.value == CALL)) {
            let what = "a call is `tools/call` with the `name` of a tool, and nothing else has one";
            self.error(
                method.place,
                what,
                "leave `method` out where there is a `name`",
            );
            return None;
        }
        if message.name.is_none() && !message.arguments.is_empty() {
            self.error(
                raw.place,
                "`arguments` without the `name` of a tool",
                "add `name`",
            );
            return None;
        }
        let mut values = Vec::new();
        for (pointer, value) in &message.arguments {
            if let Some((what, hint)) = not_a_pointer(pointer) {
                self.error(value.place, what, hint);
                return None;
            }
            values.push(Argument {
                pointer: pointer.clone(),
                values: vec![value.value.clone()],
            });
        }
        if let (Some(server), Some(name)) = (&server, &message.name) {
            self.types(server, name, message)?;
        }
        let call = message.name.as_ref().map(|_| CALL.to_owned());
        Some(Tool {
            server: server?,
            name: message.name.clone(),
            method: call.or_else(|| method.map(|it| it.value.clone())),
            answers: message.answers.clone(),
            values,
            not_understood: not_understood.map(|_| "the test says so".to_owned()),
            ..Tool::default()
        })
    }

    /// What is not of the type that an argument has is in no call that can be read.
    fn types(&mut self, server: &str, name: &str, message: &RawMessage) -> Option<()> {
        let server = self.policy.tool_server_named(server).cloned();
        let mut routes = server.iter().flat_map(|server| &server.routes.0);
        let route = routes.find(|it| it.name == name);
        for (pointer, value) in &message.arguments {
            let kind = route.and_then(|route| route.type_of(pointer));
            if let Some(kind) = kind.filter(|kind| !kind.fits(&value.value)) {
                let what = format!(
                    "`{}` is no `{kind}`, as `types` of `{}` has `{}`, so that such a call cannot be read",
                    quoted(&value.value),
                    quoted(name),
                    quoted(pointer)
                );
                let hint = format!(
                    "write {}; to test what cannot be read, say `not_understood: true` and nothing else",
                    kind.form()
                );
                self.error(value.place, what, &hint);
                return None;
            }
        }
        Some(())
    }

    fn server(&mut self, raw: &At<String>) -> Option<String> {
        let names = || self.policy.tool_servers().iter().map(|it| it.name.as_str());
        if names().any(|name| name == raw.value) {
            return Some(raw.value.clone());
        }
        let hint = nearest(&raw.value, names()).map_or_else(
            || "servers of tools stand under `tool_servers` of the policy".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        let message = format!("the policy has no server of tools `{}`", quoted(&raw.value));
        self.error(raw.place, message, &hint);
        None
    }
}
