//! Expressions: what they say, what is refused, what fails.

use std::cell::Cell;
use std::collections::BTreeMap;

use agentguard_model::{Argument, ArgumentType, Context, HostName, Tool, Transport};
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::{Declared, MAX_NODES, MAX_TEXT, Steps, When, WhenError};
use crate::circumstances::{Circumstances, Switches};
use crate::tests::{agent, policy};
use crate::{Facts, Query, Request, Seen};

fn switches() -> BTreeMap<String, bool> {
    BTreeMap::from([("incident".to_owned(), false), ("open".to_owned(), true)])
}

fn new(text: &str, regexes: &Cell<usize>) -> Result<When, Vec<WhenError>> {
    let declared = Declared {
        switches: &switches(),
        regexes,
        type_of: &|pointer| match pointer {
            "/page" => Some(ArgumentType::Integer),
            "/price" => Some(ArgumentType::Number),
            "/flag" => Some(ArgumentType::Boolean),
            "/name" => Some(ArgumentType::String),
            _ => None,
        },
    };
    When::new(text, &declared)
}

fn when(text: &str) -> When {
    match new(text, &Cell::new(9)) {
        Ok(when) => when,
        Err(found) => panic!("{text}: {found:?}"),
    }
}

fn refused(text: &str) -> Vec<String> {
    match new(text, &Cell::new(9)) {
        Ok(_) => panic!("accepted: {text}"),
        Err(found) => {
            let told = |it: WhenError| format!("{} (hint: {})", it.message, it.hint);
            found.into_iter().map(told).collect()
        }
    }
}

/// A request on behalf of somebody.
struct Scene {
    method: &'static str,
    path: &'static str,
    query: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    switches: Switches,
    /// Each with its values, between commas.
    arguments: Vec<(&'static str, &'static str)>,
}

impl Scene {
    fn new() -> Self {
        Self {
            method: "POST",
            path: "/v1/items",
            query: "a=1&b=2",
            fields: vec![("content-type", "application/json"), ("x-team", "web")],
            switches: Switches::default(),
            arguments: Vec::new(),
        }
    }

    fn holds(&self, text: &str) -> Result<bool, String> {
        let policy = policy(
            "version: 1\nagents: [{name: coder, labels: {team: web, tier: \"2\"}}]\nrules: []\n",
        );
        let name: HostName = "api.example.org".parse().unwrap();
        let query = Query::new(self.query);
        let fields: HeaderMap = self
            .fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect();
        let values = self.arguments.iter().map(|(pointer, values)| Argument {
            pointer: (*pointer).to_owned(),
            values: values.split(',').map(str::to_owned).collect(),
        });
        let tool = Tool {
            server: "shop".to_owned(),
            name: Some("search".to_owned()),
            method: Some("tools/call".to_owned()),
            values: values.collect(),
            ..Tool::default()
        };
        let request = Request {
            query: Some(&query),
            fields: Some(&fields),
            tool: Some(&tool),
            ..Request::new(self.method, self.path)
        };
        let context = Context {
            user: Some("alice".to_owned()),
            workflow: Some("release-7".to_owned()),
            ..Context::default()
        };
        let labels = BTreeMap::from([("tier".to_owned(), "1".to_owned())]);
        let circumstances = Circumstances {
            context: &context,
            labels: &labels,
            run: 3,
            // A Wednesday.
            time: "2026-06-03T07:30:00Z".parse().unwrap(),
            switches: &self.switches,
            in_favour: None,
        };
        let facts = Facts {
            host: Some(&name),
            ip: Some("192.0.2.7".parse().unwrap()),
            port: 443,
            transport: Transport::Tcp,
            request: Seen::Request(request),
            circumstances,
        };
        let holds = when(text).holds(agent(&policy, "coder"), &facts, &Steps::new());
        holds.map(|holds| holds.expect("no answer is fetched"))
    }
}

#[test]
fn an_argument_with_a_type_is_a_number_or_a_truth() {
    let arguments = |page: &[(&'static str, &'static str)]| Scene {
        arguments: page.to_vec(),
        ..Scene::new()
    };
    let scene = arguments(&[
        ("/page", "9"),
        ("/price", "10.50"),
        ("/flag", "false"),
        ("/name", "9"),
        ("/other", "9"),
    ]);
    for (text, holds) in [
        ("tool.arguments['/page'] <= 10", true),
        ("tool.arguments['/page'] > 10", false),
        ("tool.arguments['/page'] == 9", true),
        ("tool.arguments['/page'] in [1, 9]", true),
        // What was written before there were types is right with them.
        ("int(tool.arguments['/page']) <= 10", true),
        ("string(tool.arguments['/page']) == '9'", true),
        ("tool.arguments['/page'] * 2 == 18", true),
        ("tool.arguments['/price'] <= 10.5", true),
        ("tool.arguments['/price'] < 10.5", false),
        ("tool.arguments['/price'] > 10", true),
        ("tool.arguments['/price'] > tool.arguments['/page']", true),
        ("!tool.arguments['/flag']", true),
        ("tool.arguments['/flag'] == false", true),
        (
            "'/flag' in tool.arguments && tool.arguments['/flag']",
            false,
        ),
        // A text is compared as texts are.
        ("tool.arguments['/name'] <= '10'", false),
        ("tool.arguments['/other'] == '9'", true),
    ] {
        assert_eq!(scene.holds(text), Ok(holds), "{text}");
    }
    let least = arguments(&[("/page", "-9223372036854775808")]);
    assert_eq!(least.holds("tool.arguments['/page'] <= 10"), Ok(true));
    let most = arguments(&[("/page", "9223372036854775807")]);
    assert_eq!(most.holds("tool.arguments['/page'] <= 10"), Ok(false));
    // As a number of 64 bits with a fraction it would be the one above it.
    let text = "tool.arguments['/page'] < 9223372036854775807";
    let below = arguments(&[("/page", "9223372036854775806")]);
    assert_eq!(below.holds(text), Ok(true));
    assert_eq!(most.holds(text), Ok(false));
}

#[test]
fn an_argument_of_another_call_that_is_not_of_the_type_fails() {
    let no = |kind: &str| Err(kind.to_owned());
    let page = "tool.arguments['/page'] <= 10 || request.method == 'POST'";
    for (argument, text, found) in [
        (
            [("/page", "abc")],
            page,
            no("the argument `/page` is no `integer`"),
        ),
        (
            [("/page", "5.0")],
            page,
            no("the argument `/page` is no `integer`"),
        ),
        (
            [("/page", "9223372036854775808")],
            page,
            no("the argument `/page` is no `integer`"),
        ),
        (
            [("/page", "5,6")],
            page,
            no("the argument `/page` is not one value"),
        ),
        (
            [("/PAGE", "5")],
            page,
            no("the argument `/page` is not one value"),
        ),
        (
            [("/price", "1e400")],
            "tool.arguments['/price'] < 5.0",
            no("the argument `/price` is no `number`"),
        ),
        (
            [("/flag", "yes")],
            "tool.arguments['/flag'] || request.method == 'POST'",
            no("the argument `/flag` is no `boolean`"),
        ),
    ] {
        let scene = Scene {
            arguments: argument.to_vec(),
            ..Scene::new()
        };
        assert_eq!(scene.holds(text), found, "{text}");
    }
}

#[test]
fn an_argument_is_compared_with_what_is_of_its_type() {
    const HINT: &str =
        "texts are compared with texts and numbers with numbers: `int('8')`, `string(8)`";
    for (text, found) in [
        (
            "tool.arguments['/page'] == '9'",
            "a number is never equal to a text",
        ),
        (
            "tool.arguments['/page'] in ['9']",
            "a number is never equal to a text",
        ),
        (
            "tool.arguments['/flag'] == 'true'",
            "true or false is never equal to a text",
        ),
        (
            "tool.arguments['/flag'] == 1",
            "true or false is never equal to a number",
        ),
        (
            "tool.arguments['/other'] == 9",
            "a text is never equal to a number",
        ),
        (
            "tool.arguments['/name'] == 9",
            "a text is never equal to a number",
        ),
    ] {
        assert_eq!(refused(text), [format!("{found} (hint: {HINT})")], "{text}");
    }
    for text in [
        "tool.arguments['/other'] <= 10",
        "tool.arguments['/name'] <= 10",
        "tool.arguments['/page'].startsWith('1')",
        "tool.arguments['/page'] <= '10'",
        "tool.arguments['/page'] && true",
    ] {
        assert!(!refused(text).is_empty(), "{text}");
    }
    assert_eq!(
        refused("tool.arguments['/page']"),
        [
            "it, or a part that `&&`, `||` or `!` joins, is neither true nor false (hint: compare it with something)"
        ]
    );
}

#[test]
fn expressions_say_what_they_say() {
    for (text, holds) in [
        ("agent.name == 'coder'", true),
        (
            "agent.labels.team == 'web' && agent.labels['team'] != 'ops'",
            true,
        ),
        // The run's stand over the agent's.
        ("agent.labels.tier == '1'", true),
        ("has(agent.labels.owner)", false),
        ("'owner' in agent.labels || 'team' in agent.labels", true),
        ("context.user == 'alice' && context.session == ''", true),
        ("context.workflow.startsWith('release-')", true),
        (
            "destination.host.endsWith('.example.org') && destination.port == 443",
            true,
        ),
        (
            "destination.ip == '' && destination.transport == 'tcp'",
            true,
        ),
        ("request.method in ['PUT', 'POST']", true),
        // One, and neither none nor more.
        ("['GET', 'POST'].exists_one(x, x == request.method)", true),
        ("['GET', 'HEAD'].exists_one(x, x == request.method)", false),
        (
            "['/', '/v'].exists_one(x, request.path.startsWith(x))",
            false,
        ),
        (
            "request.path.startsWith('/') && ['POST'].existsOne(x, x == request.method)",
            true,
        ),
        ("request.path.matches('^/v[0-9]+/')", true),
        ("matches(request.path, r'^/v\\d$')", false),
        ("request.headers['content-type'].contains('json')", true),
        (
            "'x-other' in request.headers && request.headers['x-other'] == 'a'",
            false,
        ),
        ("request.query['a'] == '1' && request.query.b == '2'", true),
        ("int(request.query.a) + 1 == 2", true),
        ("size(request.path) < 10", true),
        (
            "time.hour == 7 && time.minute == 30 && time.weekday == 3",
            true,
        ),
        ("switches.incident", false),
        ("!switches.incident && switches.open", true),
        (
            "['/v1/', '/v2/'].exists(p, request.path.startsWith(p))",
            true,
        ),
        ("['a', 'b'].all(n, n in ['a', agent.name])", false),
        ("request.method == 'POST' ? agent.name == 'x' : true", false),
    ] {
        assert_eq!(Scene::new().holds(text), Ok(holds), "{text}");
    }
}

#[test]
fn operators_set_switches() {
    let mut scene = Scene::new();
    scene.switches.set("incident", true);
    scene.switches.set("unheard_of", true);
    assert_eq!(scene.holds("switches.incident && switches.open"), Ok(true));
    scene.switches.set("open", false);
    assert_eq!(scene.holds("switches.open"), Ok(false));
}

#[test]
fn what_could_be_read_in_two_ways_is_not_read() {
    let twice = |name, value| {
        let mut scene = Scene::new();
        scene.fields.push((name, value));
        scene
    };
    let field = "request.headers['x-team'] == 'web'";
    assert_eq!(twice("x-else", "web").holds(field), Ok(true));
    let told = twice("x-team", "ops").holds(field);
    assert_eq!(
        told,
        Err("the header field `x-team` is there 2 times".to_owned())
    );
    // The pieces of a cookie are one (RFC 9113 §8.2.3).
    let mut cookies = twice("cookie", "a=1");
    cookies.fields.push(("cookie", "b=2"));
    assert_eq!(
        cookies.holds("request.headers.cookie == 'a=1; b=2'"),
        Ok(true)
    );
    for query in ["a=1&a=2", "a=1;a=2", "a=1+2", "a=1;b=2"] {
        let scene = Scene {
            query,
            ..Scene::new()
        };
        let told = scene.holds("request.query.a == '1'");
        assert_eq!(
            told,
            Err("the parameter `a` can be read in more than one way".to_owned()),
            "{query}"
        );
    }
    let scene = Scene {
        path: "/public/..%2Fprivate",
        ..Scene::new()
    };
    assert_eq!(scene.holds("request.path.startsWith('/public/')"), Ok(true));
    assert_eq!(
        scene.holds("request.path.contains('../')"),
        Err("the path has escapes and can be read in two ways".to_owned())
    );
}

#[test]
fn what_a_request_lacks_is_an_error_without_its_values() {
    let scene = Scene {
        query: "a=secret",
        ..Scene::new()
    };
    for (text, told) in [
        ("request.headers['x-none'] == 'a'", "there is no `x-none`"),
        ("agent.labels.owner == 'a'", "there is no `owner`"),
        ("request.query.b == '1'", "there is no `b`"),
        (
            "int(request.query.a) == 1",
            "`int` cannot be had of this value",
        ),
        ("1 / (size(request.method) - 4) == 1", "it divides by zero"),
    ] {
        assert_eq!(scene.holds(text), Err(told.to_owned()), "{text}");
    }
    // What does not depend on it is decided.
    assert_eq!(
        scene.holds("request.method == 'POST' || request.query.b == '1'"),
        Ok(true)
    );
}

#[test]
fn what_is_wrong_is_told_at_load() {
    for (text, told) in [
        ("request.verb == 'GET'", "there is no `request.verb`"),
        ("request.methud == 'GET'", "did you mean `request.method`?"),
        ("agent == 'coder'", "there is no `agent`"),
        ("switches.incidant", "did you mean `switches.incident`?"),
        ("switches.other", "no switch is called `other`"),
        ("llm.modell == 'x'", "did you mean `llm.model`?"),
        (
            "llm.operation == 'chats'",
            "`llm.operation` is never `chats`",
        ),
        ("llm.provider == 'OpenAI'", "names in lower case"),
        ("llm.stream == 'true'", "is never equal to a text"),
        ("llm.tools == 'x'", "a list is never equal to a text"),
        ("llm.max_output_tokens > '5'", "hint: texts are compared"),
        ("llm.tools", "neither true nor false"),
        ("llm.tools[0] == 'x'", "`[…]` is for entries of maps"),
        (
            "risk.score > 5",
            "`risk.score` is not there yet (hint: this version has no risk score",
        ),
        (
            "request.path.startswith('/a')",
            "did you mean `startsWith`?",
        ),
        ("exec('x')", "there is no function `exec`"),
        ("request.method", "neither true nor false"),
        ("true", "looks at nothing (hint: take the part out"),
        ("1 / 2 == 0", "looks at nothing"),
        ("time.hour / 0 == 1", "it divides by zero, so it can never"),
        ("time.hour % 0 == 1", "left of a division by zero"),
        ("request.method == null", "a text is never equal to null"),
        ("null != request.path", "null is never equal to a text"),
        (
            "b'a' == request.path",
            "a run of bytes is never equal to a text",
        ),
        ("request.method in ['GET', null]", "never equal to null"),
        ("time.hour == 1.5", "`time.hour` is never 1.5"),
        ("[request.path] == ['a']", "`request.path` is never `a`"),
        (
            "[request.path] == ['/a', '/b']",
            "a list of 1 is never equal to a list of 2",
        ),
        ("[time.hour] == ['a']", "a number is never equal to a text"),
        (
            "time.minute == 60",
            "`time.minute` is never 60 (hint: it is 0 to 59)",
        ),
        (
            "time.weekday == 8",
            "(hint: it is 1 to 7; Monday is 1 and Sunday 7)",
        ),
        (
            "request.path.contains('?debug=1')",
            "`request.path` never contains `?debug=1` (hint: the query is no part of the path",
        ),
        (
            "request.path.startsWith('admin')",
            "`request.path` never begins with `admin`",
        ),
        ("request.path.contains('a//b')", "runs of `/` are one"),
        (
            "destination.host.endsWith('.Corp.example')",
            "`destination.host` never ends with `.Corp.example` (hint: a name is in lower case)",
        ),
        (
            "destination.host.endsWith('.example.')",
            "and none at its ends",
        ),
        ("destination.host.contains('*.example')", "and dots"),
        ("request.method.startsWith('post')", "in upper case"),
        ("llm.operation.contains('images')", "count_tokens"),
        ("llm.provider.startsWith('Open')", "names in lower case"),
        ("destination.ip.startsWith('10.0.0.0/')", "ranges go under"),
        ("destination.transport.startsWith('u')", "over `tcp` alone"),
        ("!(1 == 2) || switches.open", "looks at nothing"),
        ("['a'].exists(x, x == 'a')", "looks at nothing"),
        ("request.method && switches.open", "neither true nor false"),
        (
            "destination.port == '443'",
            "a number is never equal to a text",
        ),
        (
            "!(request.method in ['GET', 1])",
            "a text is never equal to a number",
        ),
        (
            "switches.open != 1",
            "true or false is never equal to a number",
        ),
        (
            "switches.open && destination.port < 'a'",
            "texts are compared with texts",
        ),
        (
            "request.headers == request.headers",
            "`request.headers` is not looked at as a whole",
        ),
        (
            "request.headers[request.method] == ''",
            "which entry of `request.headers` is looked at has to stand",
        ),
        (
            "request.headers['Content-Type'] == ''",
            "header fields are looked up in lower case",
        ),
        (
            "request.headers['a b'] == ''",
            "is not the name of a header field",
        ),
        ("has(request.method)", "says nothing: it is always there"),
        (
            "request.path.matches('(')",
            "`(` is not a regular expression",
        ),
        ("request.path.matches('(?=a)')", "look-around"),
        ("request.path.matches('a{1000}{1000}')", "is too large"),
        (
            "request.path.matches(request.method)",
            "has to stand in the rule",
        ),
        (
            "[request.path].exists(a, ['b'].exists(b, a == b))",
            "cannot stand in each other",
        ),
        (
            "['a'].exists(a, a + 'b' == 'ab')",
            "`+` is not known inside of",
        ),
        (
            "['a'].exists_one(a, a + 'b' == request.path)",
            "`+` is not known inside of",
        ),
        (
            "['a'].map(a, a) == [request.path]",
            "`+` is not known inside of",
        ),
        (
            "agent.labels.exists(a, a == 'b')",
            "go through a list that stands in the rule",
        ),
        ("{'a': 1}.a == 1", "`{…}` is not known here"),
        ("['a'][0] == 'a'", "`[…]` is for entries of maps"),
        ("'host' in request.headers", "no rule can look at it"),
        (
            "request.headers['content-length'] == '1'",
            "no rule can look at it",
        ),
        ("time.weekday == 0", "`time.weekday` is never 0"),
        ("time.hour in [23, 24]", "`time.hour` is never 24"),
        (
            "destination.transport == 'udp'",
            "`destination.transport` is never `udp`",
        ),
        ("request.method != 'get'", "`request.method` is never `get`"),
        (
            "request.path == '/a?b=c'",
            "`request.path` is never `/a?b=c`",
        ),
        (
            "destination.ip == '10.0.0.0/8'",
            "`destination.ip` is never `10.0.0.0/8`",
        ),
        ("request.method ==", "expecting expression"),
        ("request.method = 'GET'", "(hint: like"),
        ("'a", "(hint: like"),
    ] {
        let found = refused(text);
        assert!(
            found.iter().any(|it| it.contains(told)),
            "{text}: {found:#?}"
        );
    }
}

/// Each error stands where it is written, not where the same is written first.
#[test]
fn errors_have_their_own_places() {
    for (text, places) in [
        (
            "request.path.matches('[') || request.path.matches('a{2000}')",
            &["matches('[')", "matches('a{"][..],
        ),
        (
            "request.path == '/matches(' || !matches(request.path, '(') || context.user.matches('a') || request.method.matches('[')",
            &["matches(request", "matches('[')"],
        ),
        (
            "request.path == '/context.usr' && context.usr == 'a'",
            &["context.usr == "],
        ),
        (
            "request.path == '/a+b' && ['a'].exists(a, a + 'b' == request.path)",
            &["+ 'b'"],
        ),
        (
            "request.path == '/' && request.headers['A B'] == 'c'",
            &["A B"],
        ),
    ] {
        let found = new(text, &Cell::new(9)).unwrap_err();
        let at: Vec<_> = found.iter().map(|it| it.at).collect();
        let places = places.iter().map(|place| text.find(place).unwrap());
        assert_eq!(at, places.collect::<Vec<_>>(), "{text} {found:#?}");
    }
}

#[test]
fn what_was_probably_not_meant_is_told() {
    for (text, told) in [
        (
            "time.hour > 25",
            "this comparison of `time.hour` never holds",
        ),
        (
            "time.hour < 0",
            "this comparison of `time.hour` never holds",
        ),
        (
            "time.hour >= 0",
            "this comparison of `time.hour` always holds",
        ),
        (
            "24 > time.hour",
            "this comparison of `time.hour` always holds",
        ),
        ("time.weekday <= 7", "Monday is 1"),
        (
            "time.minute > 59.5",
            "this comparison of `time.minute` never holds",
        ),
        (
            "!(destination.port > 70000)",
            "this comparison of `destination.port` never holds",
        ),
        (
            "size(request.path) < 0",
            "this comparison of `size` never holds",
        ),
        (
            "request.path.size() >= 0 || switches.open",
            "this comparison of `size` always holds",
        ),
        (
            "size(request.path) == -1",
            "this comparison of `size` never holds",
        ),
        (
            "llm.max_output_tokens < 0",
            "`llm.max_output_tokens` never holds",
        ),
        ("request.method in []", "`in []` never holds"),
        (
            "switches.open && !switches.open",
            "what `&&` joins never holds together",
        ),
        (
            "!switches.open || switches.open",
            "what `||` joins always holds",
        ),
        (
            "!(switches.open || switches.incident) && switches.open",
            "what `&&` joins never",
        ),
        (
            "request.method == 'GET' && request.method == 'POST'",
            "what `&&` joins never",
        ),
        (
            "request.method != 'GET' || request.method != 'POST'",
            "what `||` joins always",
        ),
        (
            "request.method in ['GET', 'PUT'] && 'POST' == request.method",
            "what `&&` joins never",
        ),
        (
            "request.method == 'GET' && request.method != 'GET'",
            "what `&&` joins never",
        ),
        (
            "request.method == 'GET' && !(request.method in ['GET', 'PUT'])",
            "what `&&` joins never",
        ),
        ("time.hour > 20 && time.hour < 6", "what `&&` joins never"),
        ("time.hour < 20 || time.hour > 6", "what `||` joins always"),
        (
            "time.hour == 3 && switches.open && time.hour > 6",
            "what `&&` joins never",
        ),
        ("time.hour > 5 && time.hour < 6", "what `&&` joins never"),
        (
            "request.path == request.path",
            "what is compared with itself always holds",
        ),
        (
            "request.path != request.path || switches.open",
            "with itself never holds",
        ),
        (
            "request.headers['a'] < request.headers['a']",
            "with itself never holds",
        ),
        (
            "request.path.matches('')",
            "the pattern `` is found in every text",
        ),
        (
            "request.path.matches('.*') && switches.open",
            "the pattern `.*` is found in every text",
        ),
        (
            "request.path.startsWith('')",
            "`startsWith('')` always holds",
        ),
        (
            "['/a'].exists(p, request.path.startsWith(p) && time.hour > 25)",
            "never holds",
        ),
    ] {
        let when = when(text);
        let doubts = when.doubts();
        assert_eq!(doubts.len(), 1, "{text}: {doubts:?}");
        let doubt = format!("{} (hint: {})", doubts[0].message, doubts[0].hint);
        assert!(doubt.contains(told), "{text}: {doubt}");
    }
}

#[test]
fn nothing_is_said_of_what_can_be_so_and_otherwise() {
    for text in [
        "time.hour >= 1 && time.hour < 23",
        "time.hour < 6 || time.hour > 20",
        "time.hour == 23 || time.hour == 0",
        "destination.port > 1023 && destination.port != 8080",
        "size(request.path) > 0",
        "request.path.contains('.git') || request.path.endsWith('/')",
        "destination.host.contains('-') || destination.host.endsWith('.example')",
        "destination.host.startsWith('api.') || destination.ip.startsWith('10.')",
        "llm.operation.startsWith('text_') || request.method.startsWith('P')",
        "request.method == 'GET' || request.method == 'HEAD'",
        "request.method != 'GET' && request.method != 'HEAD'",
        "request.method in ['GET', 'PUT'] && request.method != 'GET'",
        "switches.open && !switches.incident",
        "switches.open || switches.open",
        "request.path.startsWith('/a') && !request.path.startsWith('/a/b')",
        "request.path.matches('^$') || request.path.matches('a+')",
        "request.headers['a'] == request.headers['b']",
        "agent.labels.team == 'a' && agent.labels.tier == 'b'",
        "int(request.query.a) > 5 && int(request.query.a) < 7",
        "(request.method == 'GET' && time.hour > 5) || (request.method == 'PUT' && time.hour < 5)",
        "llm.tools.exists(t, t == 'a' || t == 'b') && request.method == 'POST'",
    ] {
        assert_eq!(when(text).doubts(), [], "{text}");
    }
}

#[test]
fn a_character_of_no_expression_is_one_error() {
    for text in ["😀 == 1", "request.method == 😀"] {
        let found = refused(text);
        assert_eq!(found.len(), 1, "{found:?}");
    }
}

#[test]
fn an_escape_is_no_way_past_an_expression() {
    for (path, expression) in [
        ("/%24batch", "request.path.startsWith('/$batch')"),
        ("/%2Fsecret", "request.path.startsWith('/secret')"),
        ("/api%2F%2Fv1", "request.path == '/api/v1'"),
    ] {
        let scene = Scene {
            path,
            ..Scene::new()
        };
        assert!(scene.holds(expression).is_err(), "{path}");
        assert_eq!(scene.holds("request.path.startsWith('/')"), Ok(true));
    }
}

#[test]
fn regular_expressions_are_counted() {
    let three =
        "request.path.matches('a') || request.path.matches('b') || request.path.matches('c')";
    let room = Cell::new(4);
    new(three, &room).unwrap();
    assert_eq!(room.get(), 1);
    // One that does not compile was work too.
    new("request.path.matches('(')", &room).unwrap_err();
    assert_eq!(room.get(), 0);
    let found = new("request.path.matches('a')", &room).unwrap_err();
    assert!(
        found[0].message.contains("at most 500 regular expressions"),
        "{found:?}"
    );
}

#[test]
fn bounds_are_told() {
    let long = format!("request.path == '{}'", "a".repeat(MAX_TEXT));
    assert!(refused(&long)[0].contains("at most 2048 bytes"));
    let many = vec!["time.hour>9"; MAX_NODES].join(" && ");
    assert!(
        refused(&many)
            .iter()
            .any(|it| it.contains("at most 128 parts")),
        "{:?}",
        refused(&many)
    );
    for deep in [
        "(",
        "[",
        "!",
        "-",
        "a.b(",
        "true ? ",
        "size(",
        "['a'].all(a,",
    ] {
        for times in [8, 16, 24, 64, MAX_TEXT / deep.len()] {
            assert!(!refused(&deep.repeat(times)).is_empty(), "{deep}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Nothing that is written makes the loader fail otherwise, and what it accepts can be evaluated.
    #[test]
    fn whatever_is_written_is_accepted_or_refused(parts in prop::collection::vec(prop::sample::select(&[
        "request.method", "request.headers['a']", "agent.labels.team", "switches.open", "time.hour", "'GET'", "1",
        "==", "!=", "&&", "||", "!", "<", "+", "/", "in", "(", ")", "[", "]", ",", ".", "?", ":", "matches",
        "['a', 'b']", ".exists(x, x == 'a')", ".startsWith('a')", "size(", "true", "{", "}", "-", "x", "'", "\\",
        "🐚", "\u{0}", "1e999", "0x", "u", "b'a'", "\"\"\"", "@in", "has(", "int(", "`a`",
    ][..]), 0..24)) {
        let text = parts.join(" ");
        if new(&text, &Cell::new(9)).is_ok() {
            let _ = Scene::new().holds(&text);
        }
    }
}
