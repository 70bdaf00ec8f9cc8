//! A trial of an expression at load: what is wrong with its types is found before a request meets it.

use std::sync::Arc;

use agentguard_model::{
    Argument, ArgumentType, Context as OnBehalf, HostName, Labels, Llm, LlmOperation, Tool,
    Transport,
};
use cel::ExecutionError;
use cel::common::ast::{Expr, operators};
use http::HeaderMap;
use http::header::HeaderValue;

use super::values::Values;
use super::{LooksAt, When, WhenError, context, told};
use crate::circumstances::Circumstances;
use crate::decide::Facts;
use crate::request::{Query, Request};
use crate::rule::Seen;
use crate::steps::Meter;

/// Evaluates an expression, and what its operators join, on an example: what is wrong with a type is
/// wrong with it on all.
pub(super) fn run(when: &When) -> Result<(), Vec<WhenError>> {
    let example = Example::of(&when.looks_at);
    let meter = Arc::new(Meter::endless());
    let request = example.request();
    let facts = example.facts(&request);
    let values = Values {
        agent: "agent",
        labels: &example.labels,
        facts: &facts,
        request: Some(&request),
        path: request.path,
        looks_at: &when.looks_at,
        looks: when.parts.looks,
        meter: &meter,
    };
    let mut context = context(&when.patterns, Some(&meter));
    context.set_variable_resolver(&values);
    let mut found = Vec::new();
    let mut truths = vec![&when.expression];
    while let Some(node) = truths.pop() {
        if let Expr::Call(call) = &node.expr {
            match (call.func_name.as_str(), call.args.as_slice()) {
                (
                    operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT,
                    parts,
                ) => {
                    truths.extend(parts);
                    continue;
                }
                (operators::CONDITIONAL, parts) => truths.extend(parts),
                _ => {}
            }
        }
        match context.resolve(node) {
            Ok(cel::Value::Bool(_)) => {}
            Ok(_) => found.push(WhenError::new(
                "it, or a part that `&&`, `||` or `!` joins, is neither true nor false",
                "compare it with something",
            )),
            // Another request may have what this one has not.
            Err(
                ExecutionError::NoSuchKey(_)
                | ExecutionError::DivisionByZero(_)
                | ExecutionError::RemainderByZero(_)
                | ExecutionError::Overflow(..)
                | ExecutionError::IndexOutOfBounds(_)
                | ExecutionError::FunctionError { .. },
            ) => {}
            Err(error) => found.push(WhenError::new(
                told(&error),
                "texts are compared with texts and numbers with numbers: `int('8')`, `string(8)`",
            )),
        }
    }
    found.dedup();
    if found.is_empty() { Ok(()) } else { Err(found) }
}

/// A request that has all that an expression looks at.
struct Example {
    host: Option<HostName>,
    labels: Labels,
    context: OnBehalf,
    fields: HeaderMap,
    query: Query,
    llm: Llm,
    tool: Tool,
}

impl Example {
    fn of(looks_at: &LooksAt) -> Self {
        let one = || Some("1".to_owned());
        let fields = looks_at.fields.iter();
        let query = looks_at.parameters.iter();
        let mut serializer = form_urlencoded::Serializer::new(String::new());
        serializer.extend_pairs(query.map(|name| (name, "1")));
        Self {
            host: "example.org".parse().ok(),
            labels: looks_at
                .labels
                .iter()
                .map(|it| (it.clone(), "1".to_owned()))
                .collect(),
            context: OnBehalf {
                user: one(),
                session: one(),
                workflow: one(),
                purpose: one(),
                trace_id: one(),
            },
            fields: fields
                .map(|it| (it.clone(), HeaderValue::from_static("1")))
                .collect(),
            query: Query::new(serializer.finish()),
            llm: Llm {
                provider: "openai".to_owned(),
                operation: LlmOperation::Chat,
                model: one(),
                stream: true,
                max_output_tokens: Some(1),
                tools: vec!["1".to_owned()],
                asks: Vec::new(),
                asks_unread: false,
                not_understood: None,
            },
            tool: Tool {
                server: "1".to_owned(),
                name: one(),
                method: Some("tools/call".to_owned()),
                values: looks_at
                    .arguments
                    .iter()
                    .map(|it| Argument {
                        pointer: it.clone(),
                        values: vec![match looks_at.types.get(it) {
                            Some(ArgumentType::Boolean) => "true".to_owned(),
                            _ => "1".to_owned(),
                        }],
                    })
                    .collect(),
                ..Tool::default()
            },
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            query: Some(&self.query),
            fields: Some(&self.fields),
            llm: Some(&self.llm),
            tool: Some(&self.tool),
            ..Request::new("GET", "/")
        }
    }

    fn facts<'a>(&'a self, request: &Request<'a>) -> Facts<'a> {
        Facts {
            host: self.host.as_ref(),
            ip: None,
            port: 443,
            transport: Transport::Tcp,
            request: Seen::Request(*request),
            circumstances: Circumstances {
                context: &self.context,
                ..Circumstances::NOBODY
            },
        }
    }
}
