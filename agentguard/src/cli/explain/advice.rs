//! What to do about a decision.

use std::net::IpAddr;

use agentguard_model::special::special;
use agentguard_model::{Action, ActionKind, Decision, Llm, ReasonCode, Tool, Transport, Verdict};
use agentguard_policy::is_exact_path;
use ipnet::IpNet;

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Advice {
    /// In a sentence.
    pub(super) words: Option<String>,
    /// A rule to add under `rules:`, in YAML.
    pub(super) rule: Option<String>,
}

/// What to do about a decision; nothing for what was allowed.
pub(super) fn of(decision: &Decision) -> Advice {
    let changes = matches!(
        decision.reason.code,
        ReasonCode::ToolDefinitionChanged | ReasonCode::ToolNotPinned
    );
    if decision.verdict != Verdict::Deny && !changes {
        return Advice::default();
    }
    let say = |words: &str| Advice {
        words: Some(words.to_owned()),
        rule: None,
    };
    let first = || {
        // A limit that is on paper stands behind what decides, and allows nothing.
        let mut matched = decision.matched.iter();
        let matched = matched.find(|it| !matches!(&*it.engine, "limit" | "breaker"))?;
        let source = &matched.source;
        Some(format!(
            "rule `{}` at {}:{}",
            matched.rule, source.file, source.line
        ))
    };
    match decision.reason.code {
        ReasonCode::NoRule if let Some(rule) = first() => say(&format!(
            "{rule} would allow it, and is on paper only: `mode: enforce` there, or more of its `rollout`, puts it in force",
        )),
        ReasonCode::NoRule => match rule(decision) {
            Some(rule) => Advice {
                words: Some(
                    "if it should be allowed, add this under `rules:`, then run `agentguard policy reload`".into(),
                ),
                rule: Some(rule),
            },
            None if decision.action.tool.is_some() => say(
                "no rule can be suggested, because what was sent cannot stand in one: write one with `tool` for what is meant",
            ),
            None => say("no rule can be suggested, because the destination is not known"),
        },
        ReasonCode::RuleDeny if !decision.enforced => say(&match first() {
            Some(rule) => format!("it passed: once {rule} is enforced it is refused; narrow the rule if that is not meant"),
            None => "it passed, and is refused once the rule that denies it is enforced".into(),
        }),
        ReasonCode::RuleDeny => say(&match first() {
            Some(rule) => format!(
                "to let it pass, narrow or remove {rule}: unless the policy names another `strategy`, a denial overrides every allowance",
            ),
            None => "narrow or remove the rule that denies: unless the policy names another `strategy`, a denial overrides every allowance".into(),
        }),
        ReasonCode::ToolDefinitionChanged => {
            let tool = decision.action.tool.as_ref();
            let server = tool.map_or("SERVER", |tool| &tool.server);
            let name = tool.and_then(|tool| tool.name.as_deref()).unwrap_or("TOOL");
            say(&format!(
                "`agentguard tools diff {server} {name}` shows what it is now, and `agentguard tools accept {server} {name}` has it go on so"
            ))
        }
        ReasonCode::ToolNotPinned => {
            let tool = decision.action.tool.as_ref();
            let server = tool.map_or("SERVER", |tool| &tool.server);
            say(&format!(
                "look at what the server lists; where too many tools are pinned, `agentguard tools forget {server}` begins anew, and `pin: off` of that server in the policy asks for no comparison"
            ))
        }
        ReasonCode::EngineError => say(&match first() {
            Some(rule) => format!(
                "the expression of {rule} could not be evaluated on this: have it ask first whether what it looks at is there (`'name' in request.headers && …`)",
            ),
            None => "an expression could not be evaluated on this".into(),
        }),
        ReasonCode::LoopbackNotOwn => say(
            "the port belongs to another program of this host; start the server inside the agent, or add a rule with `cidr: [127.0.0.1/32, \"::1/128\"]` and the port",
        ),
        ReasonCode::GuardSocket => say("no rule can allow this: an agent never reaches the guard's own sockets, nor has their ports"),
        ReasonCode::NameNotAnswered => say(
            "the address stands for a name that this agent did not ask for: it must resolve the name itself, with the resolver it was given",
        ),
        ReasonCode::NoListener => say(
            "the guard has no listener in the process's network namespace: start it with `agentguard run`, or add its cgroup with `agentguard agent add`",
        ),
        ReasonCode::Quarantined => {
            let name = decision.agent.as_ref().map_or("NAME", |agent| agent.name.as_str());
            say(&format!(
                "the agent is quarantined, and no rule changes that: `agentguard agent show {name}` says since when, by whom and why, and `agentguard agent release {name}` undoes it"
            ))
        }
        ReasonCode::QuotaBytes => {
            let name = decision.agent.as_ref().map_or("NAME", |agent| agent.name.as_str());
            say(&format!(
                "`agentguard agent show {name}` says what the agent has used and when there is more; its `quota` in the policy is the limit, and a larger one counts with the next reload"
            ))
        }
        ReasonCode::RateConnections => say(
            "let the program keep its connections open and use them again, or let it wait; `quota: connections` of the agent in the policy is the limit",
        ),
        ReasonCode::DatagramNotProxied => say(
            "only the proxy may decide this destination, and it takes TCP only: clients fall back to TCP, or a rule over `transport: [udp]` allows the datagrams as they are",
        ),
        ReasonCode::DaemonLost => say("the daemon was gone: start it; `on_daemon_loss: keep` lets an agent's direct flows go on without it"),
        ReasonCode::SocketNotAllowed => say("agents make UNIX, TCP and UDP sockets only; no rule can allow another kind in this version"),
        ReasonCode::SocketUnknown => say(
            "a socket that was made before its cgroup was governed, or by somebody else, sends nothing: let the program connect again, or restart it",
        ),
        ReasonCode::NoAgent => say(
            "the process runs below a governed cgroup and matches no agent: name its cgroup in the policy, or add it with `agentguard agent add`",
        ),
        ReasonCode::MapFull | ReasonCode::LimitReached => say(
            "a bound of the guard was reached: `agentguard status` tells of its state; look for one agent that opens very many flows, or asks for very many names at once without waiting for answers",
        ),
        ReasonCode::InboundNotAllowed => say("agents take connections over loopback only: nothing from outside reaches a port that one listens on"),
        ReasonCode::MetadataService => say(
            "metadata services hand out the host's credentials: a rule must name the address itself, in `cidr`, to allow it",
        ),
        ReasonCode::NoAddress => say("the name has no address of the family that was dialled, or is reached through a proxy of the configuration: use the other family, or `handling: splice`"),
        ReasonCode::NoUplink => say("run the agent without `--isolate`, or use TCP"),
        ReasonCode::BoundToDevice => say("let the program choose no network device (SO_BINDTODEVICE, IP_PKTINFO, `curl --interface`): the guard is reached over loopback"),
        ReasonCode::UnixSocketNotAllowed => say("what listens there works for the whole host: let the program do without, or run it outside the guard"),
        ReasonCode::DeviceNotAllowed => say("no rule can allow it: let the program do without, or run it outside the guard"),
        ReasonCode::ProcessNotAllowed => say("debuggers and profilers work on processes of the same agent only: start both in it"),
        ReasonCode::MulticastNotAllowed => say("agents have no multicast (mDNS, SSDP): turn discovery off in the program, or ignore it if the rest works"),
        ReasonCode::OptionNotAllowed => say("servers have a setting for it: let this one listen on an address of the host, and leave the choice among its sockets to the kernel"),
        ReasonCode::Rebinding => say(
            "the name resolved to an address that is not public: if that is meant, list the range in the rule's `resolved_ranges`",
        ),
        ReasonCode::NameUnknown => say("the name does not exist: look for a typing error"),
        ReasonCode::ResolverFailed => say("ask the upstream resolvers directly, for instance with dig; `resolvers` in the configuration names them"),
        ReasonCode::VirtualAddressesExhausted => say("too many names were resolved: addresses become free 7 days after their last use"),
        ReasonCode::OriginUnknown => say("the connection did not come through the gate: something other than an agent dialled the proxy"),
        ReasonCode::NameMismatch => say(
            "the client named one host and went to another; if one server may answer for both, write a rule for the name that is asked for",
        ),
        ReasonCode::SessionNotOwn => say("the server gave this session to another agent: let the client begin one of its own (`initialize`)"),
        ReasonCode::NotChanged => say("let the client send what the rule changes as JSON, unsigned and in the form that its API has; or make the rule a `deny`, or leave out what it changes"),
        ReasonCode::PolicyChanged => say("nothing: a client that tries again opens a connection under the new policy"),
        // A request that was seen has nothing to be inspected but how much content it has.
        ReasonCode::NeedsInspection if decision.action.kind == ActionKind::HttpRequest => say(
            "a rule denies by the size of content (`body_over`), and how much this is cannot be told: send it whole, as it is or coded once in gzip, deflate, br or zstd; what was under way when the policy changed, or while too much was being unpacked, can be sent again as it was",
        ),
        ReasonCode::ProtocolUnknown | ReasonCode::NeedsInspection => say(
            "a rule wants requests seen, and none can be: in TLS they can where the rule that allows the destination says `handling: inspect`; what is neither TLS nor HTTP needs a rule that splices it and looks at no request",
        ),
        ReasonCode::TlsMalformed | ReasonCode::HttpMalformed | ReasonCode::DnsMalformed | ReasonCode::PacketUnparsable => {
            say("what was sent cannot be read, and what cannot be read is not passed on: look at the client")
        }
        ReasonCode::NotUnderstood => say(
            "what goes to a language model or a server of tools has to be readable in one way: look at the client, or let the rules decide with `not_understood: allow` for the agent",
        ),
        ReasonCode::ClientDistrusts => say(
            "the program broke off TLS with the guard: start it with `agentguard run`, or give it the guard's CA (`agentguard ca export`); a program that accepts no CA but its own needs `handling: splice` in the rule",
        ),
        ReasonCode::UpstreamUntrusted => say(
            "the server's certificate is expired, for another name, or of an authority that this host does not know: an authority of your own goes under `upstreams` in the configuration",
        ),
        ReasonCode::UpstreamUnreachable => say("the policy allows it; the destination did not answer from this host"),
        ReasonCode::RecordFailed => say("what cannot be recorded is denied: `agentguard status` says what is wrong with the record, most often a full disk"),
        ReasonCode::RecordQuota => say("the agent has used up its share of the record, so that it cannot fill the disk: the share grows back with time"),
        ReasonCode::RateLimited => say("clients that heed `retry-after` try it again by themselves: `agentguard limits list` says for how long; another rate goes under `limits` of the policy"),
        ReasonCode::RepeatedCall | ReasonCode::NoProgress => say(
            "look at what the agent does over and over, in `agentguard verdicts --agent`: where that is as it should be, leave the calls out of the limit (`llm`, `tool`), or let more of them go",
        ),
        ReasonCode::RetryStorm => say("look at why the calls before it failed, in `agentguard verdicts --agent`: they go on after the time of the limit"),
        ReasonCode::ChainTooDeep => say("look at which agents call each other without an end; where so many are meant, the limit's `calls` and `agents` say how many there may be"),
        ReasonCode::CircuitOpen => say("look at the upstream, or the tool: it is tried again by itself, and goes on once it works; `agentguard limits list` says when"),
        ReasonCode::Internal => say("this is a fault of the guard: the daemon's log has more under this id"),
        _ => Advice::default(),
    }
}

/// The narrowest rule that allows what was denied, where the destination is known.
fn rule(decision: &Decision) -> Option<String> {
    let action = &decision.action;
    let (place, subject, value) = match (&action.host, action.ip) {
        (Some(host), _) => ("host", host.to_string(), host.to_string()),
        (None, Some(ip)) => ("cidr", ip.to_string(), IpNet::from(ip).to_string()),
        (None, None) => return None,
    };
    let agent = decision.agent.as_ref()?.name.as_str();
    // An id has no colons.
    let mut id = format!("{agent}-{}", subject.replace(':', "-"));
    id.truncate(64);
    let mut rule =
        format!("- id: {id}\n  agents: [\"{agent}\"]\n  match:\n    {place}: [\"{value}\"]\n");
    // A query is made before any port is known, and its own port is the resolver's.
    let port = action.port.filter(|_| action.kind != ActionKind::DnsQuery);
    if let Some(port) = port {
        rule.push_str(&format!("    port: [{port}]\n"));
    }
    if action.kind != ActionKind::DnsQuery && action.transport == Some(Transport::Udp) {
        rule.push_str("    transport: [udp]\n");
    }
    if let Some(tool) = &action.tool {
        rule.push_str(&format!("    tool: {}\n", plain_tool(tool)?));
    } else if let Some(llm) = &action.llm {
        rule.push_str(&format!("    llm: {}\n", plain_llm(llm)?));
    } else if action.kind == ActionKind::HttpRequest
        && let Some(method) = plain_method(action)
    {
        rule.push_str(&format!("    method: [\"{method}\"]\n"));
        match plain_path(action) {
            Some(path) => rule.push_str(&format!("    path: [\"{path}\"]\n")),
            None => rule.push_str(
                "    # path: what was asked for cannot stand here; every path is allowed without\n",
            ),
        }
    }
    rule.push_str("  action: allow\n");
    if action.host.is_some() {
        rule.push_str(&resolved_ranges(action.ip));
    }
    // Else it would see no request, there.
    let is_seen = action.tool.is_some() || action.llm.is_some();
    if (is_seen || action.kind == ActionKind::HttpRequest) && action.tls {
        rule.push_str("  handling: inspect\n");
    }
    Some(rule)
}

/// Whether a word that an agent wrote means itself in a rule.
fn is_plain(word: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"_-./:".contains(&b);
    !word.is_empty() && word.bytes().all(known)
}

/// What a rule says of a call of a language model, if that can stand in one: nothing lets pass alone what could not be
/// read.
fn plain_llm(llm: &Llm) -> Option<String> {
    let model = llm.model.as_deref().filter(|model| is_plain(model))?;
    if llm.not_understood.is_some() || !is_plain(&llm.provider) {
        return None;
    }
    let operation = serde_json::to_value(llm.operation).ok()?;
    let operation = operation.as_str()?;
    Some(format!(
        "{{ provider: [\"{}\"], operation: [{operation}], model: [\"{model}\"] }}",
        llm.provider
    ))
}

/// What a rule says of a message to a server of tools, if that can stand in one. The agent wrote it: a `*` of its own
/// must not become a wildcard of ours.
fn plain_tool(tool: &Tool) -> Option<String> {
    let asked = tool.method.iter().chain(&tool.answers);
    let methods: Vec<_> = asked.map(|method| format!("\"{method}\"")).collect();
    let all_plain = tool
        .method
        .iter()
        .chain(&tool.answers)
        .all(|it| is_plain(it));
    if tool.not_understood.is_some() || !all_plain || !is_plain(&tool.server) {
        return None;
    }
    let server = &tool.server;
    Some(match &tool.name {
        Some(name) if !is_plain(name) => return None,
        Some(name) if tool.answers.is_empty() => {
            format!("{{ server: [\"{server}\"], name: [\"{name}\"] }}")
        }
        Some(name) => format!(
            "{{ server: [\"{server}\"], name: [\"{name}\"], method: [{}] }}",
            methods.join(", ")
        ),
        None if methods.is_empty() => format!("{{ server: [\"{server}\"], method: [\"ping\"] }}"),
        None => format!(
            "{{ server: [\"{server}\"], method: [{}] }}",
            methods.join(", ")
        ),
    })
}

/// The method, if it can stand in a rule. The agent wrote it.
fn plain_method(action: &Action) -> Option<&str> {
    let plain = |method: &&str| {
        !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
    };
    action.method.as_deref().filter(plain)
}

/// The path, if it means in a rule what it meant in the request. The agent wrote it: a `*` of its own
/// must not become a wildcard of ours. What stands in a canonical path ends no text in quotes.
fn plain_path(action: &Action) -> Option<&str> {
    action.path.as_deref().filter(|path| is_exact_path(path))
}

/// What a rule for a name says of the address behind it, which has to be public or named.
fn resolved_ranges(ip: Option<IpAddr>) -> String {
    let Some(ip) = ip.map(|ip| ip.to_canonical()) else {
        return "  # resolved_ranges: [\"10.0.0.0/8\"] or the like is needed if the name leads to no public address; the record does not say where it leads\n"
            .to_owned();
    };
    match special(ip) {
        None => String::new(),
        Some((_, special)) if special.never_permitted() => {
            format!("  # the name leads to {ip}, a {special} address that no rule lets it have\n")
        }
        // What leads to IPv4 from IPv6 is named as IPv4.
        Some((IpNet::V4(range), _)) if ip.is_ipv6() => {
            format!("  resolved_ranges: [\"{range}\"]\n")
        }
        Some(_) => format!("  resolved_ranges: [\"{}\"]\n", IpNet::from(ip)),
    }
}
