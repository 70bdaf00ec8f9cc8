//! The proxy between real sockets on loopback, with a recorder that is a vector.

mod a2a;
mod accounts;
mod asked_back;
mod asked_tools;
mod authority;
mod aws_streams;
mod budgets;
mod byte_budgets;
mod calls;
mod calls_by_path;
mod changed;
mod circuits;
mod clear_http2;
mod counted_input;
mod counted_turns;
mod cut_out;
mod disguise;
mod events;
mod fetched;
mod floods;
mod frames;
mod growth;
mod http;
mod http2;
mod inspect;
mod interims;
mod kept;
mod lists;
mod live;
mod live_charged;
mod live_said;
mod messages;
mod mid_stream;
mod pinned;
mod pool;
mod quarantined;
mod raw;
mod readings;
mod resets;
mod rests;
mod resumption;
mod revoked;
mod sessions;
mod tls;
mod too_large;
mod tunnel;
mod turns;
mod unread;
mod upstreams;
mod via;
mod websocket;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentguard_budget::Embedded;
use agentguard_decision::{
    Accounting, Changes, Client, Decider, Directory, Policies, RecordRefused, Recorder,
};
use agentguard_model::contents::Contents;
use agentguard_model::{
    ActionKind, AgentId, AgentName, Decision, DecisionId, HostName, Outcome, Process, Reason,
    ReasonCode, UpstreamEntry, Verdict,
};
use agentguard_policy::{Document, Policy, compile};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, RwLock, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use authority::Authority;

use crate::{EventLoops, Leaf, Limits, Origin, Port, Shared, Subject, Tls, serve};

/// Nothing in these tests takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the policy of a test says.
#[derive(Clone, Copy)]
enum Rules {
    /// Everything is allowed, spliced.
    Allow,
    /// Everything is denied.
    Deny,
    /// Only GET and HEAD below `/ok` are allowed.
    Requests,
    /// Everything is allowed but one address.
    ButOneAddress,
    /// Everything is allowed but CONNECT at one address.
    ButTunnels,
    /// As [`Self::Requests`], inside TLS too.
    Inspect,
    /// CONNECT to the proxy is allowed, and behind it what [`Self::Requests`] allows.
    Proxy,
    /// Everything is allowed to the name behind the proxy alone.
    Inner,
    /// Everything is allowed, requests inspected, but to [`DENIED`] POST.
    ButPostToOneAddress,
    /// Everything is allowed to the name, inspected, but requests with more than 1000 bytes.
    Sized,
    /// As [`Self::Sized`], where the denial is on paper.
    SizedOnPaper,
    /// As [`Self::Inspect`], and only `/ok` itself.
    InspectLess,
    /// Everything is allowed to the name, inspected, with other header fields.
    Changed,
    /// The name is a provider's; calls of `small` are allowed, but with the tool `shell`.
    Calls,
    /// The name is a provider's, and everything is allowed.
    CallsUnread,
    /// The same, and what cannot be read is left to the rules.
    CallsUnreadAllowed,
    /// As [`Self::CallsUnread`], but for answers that ask for `shell`.
    CallsAsked,
    /// The same, where `small` alone may not ask for it.
    CallsAskedOfSmall,
    /// The same, where calls that cannot be read are left to the rules.
    CallsAskedOfAny,
    /// The name is a provider's; answers may be fetched, and calls that cannot be read are left to the rules.
    CallsFetched,
    /// As [`Self::CallsAsked`], where what is asked for is cut out of the answer.
    CallsCut,
    /// As [`Self::CallsAsked`], where calls of `large` alone are allowed.
    CallsAskedOfLarge,
    /// The name is Amazon Bedrock's, and everything is allowed.
    AwsUnread,
    /// The same, but for answers that ask for `shell`.
    AwsAsked,
    /// The same, where what is asked for is cut out of the answer.
    AwsCut,
    /// As [`Self::CallsUnread`], with a budget of 300 tokens of output.
    CallsFew,
    /// The same, where no call may come again within an hour.
    CallsFewOnce,
    /// As [`Self::CallsFew`], of 100,000 tokens.
    CallsMany,
    /// The same, and of 8,000 bytes in.
    CallsCarried,
    /// As [`Self::Allow`], of 2,000 bytes out and as many in.
    Bytes,
    /// As [`Self::CallsMany`], each model for itself.
    CallsEach,
    /// The same, of a second.
    CallsTimed,
    /// The same, of 100 dollars.
    CallsPaid,
    /// The same, of tokens from a cache, and of tokens of reasoning.
    CallsKinds,
    /// The same, where the provider is known for what it takes.
    CallsKnown,
    /// As [`Self::CallsAsked`], where the name is Google's.
    GeminiAsked,
    /// The same, where what is asked for is cut out of the answer.
    GeminiCut,
    /// The name is Google's, with a budget of 300 tokens of output.
    GeminiFew,
    /// As [`Self::GeminiAsked`], where the name is Cohere's.
    CohereAsked,
    /// The same, where it is a server of Ollama's.
    OllamaAsked,
    /// As [`Self::CallsUnread`], where calls are allowed in requests alone.
    CallsByPost,
    /// The name is a provider's; calls of `small` are allowed, but with the tool `shell`, and of no length. `scribe` may
    /// write down what is heard.
    Live,
    /// The name is a provider's, and all contents are kept.
    LiveKept,
    /// The name is Google's, and all calls are allowed but those of a model.
    CallsByPath,
    /// The name is a provider's with servers of tools, and calls of each are allowed with other contents.
    Edited,
    /// The same, but that their contents are kept.
    Kept,
    /// Of the tools there one is called without the header field `cookie`, and another with it.
    Fields,
    /// At the name there is a server of tools; calls of `read` below `/data/` are allowed.
    Tools,
    Agents,
    /// There, calls of `read` and answers to sampling are allowed; answers to elicitation are denied.
    AskedBack,
    /// As [`Self::CallsUnread`], of which each user has one call, and each session one of a tool. Requests are not trusted
    /// to say whose they are.
    Accounts,
    /// The same, where calls of language models say it.
    AccountsByCalls,
    /// The same, where `baggage` says it, and what calls say counts where that says nothing.
    AccountsByBaggage,
    /// The same, where sessions of MCP say it.
    AccountsBySessions,
}

impl Rules {
    /// Whether calls are charged.
    const fn is_of_accounts(self) -> bool {
        matches!(
            self,
            Self::Accounts
                | Self::AccountsByCalls
                | Self::AccountsByBaggage
                | Self::AccountsBySessions
        )
    }
}

/// What no name may resolve to under [`Rules::ButOneAddress`].
const DENIED: &str = "127.0.0.66";

#[derive(Default)]
struct Log {
    decisions: Mutex<Vec<Decision>>,
    /// What was kept of contents.
    contents: Mutex<Vec<(DecisionId, Contents)>>,
    changed: Notify,
    /// While a test has it to itself, nothing is written.
    disk: RwLock<()>,
    /// How many decisions were given to it, written or not.
    given: watch::Sender<usize>,
}

impl Recorder for Log {
    async fn write(&self, decision: Box<Decision>) -> Result<DecisionId, RecordRefused> {
        self.given.send_modify(|given| *given += 1);
        let _disk = self.disk.read().await;
        let id = decision.id;
        self.decisions.lock().unwrap().push(*decision);
        self.changed.notify_waiters();
        Ok(id)
    }

    fn contents(&self, id: DecisionId, agent: &AgentName, contents: Contents) {
        assert_eq!(agent.as_str(), "tester");
        self.contents.lock().unwrap().push((id, contents));
    }

    fn outcome(&self, id: DecisionId, outcome: Outcome) {
        let mut decisions = self.decisions.lock().unwrap();
        let decision = decisions.iter_mut().find(|d| d.id == id).unwrap();
        assert!(decision.outcome.is_none(), "two outcomes");
        decision.outcome = Some(outcome);
        drop(decisions);
        self.changed.notify_waiters();
    }
}

struct FakePort {
    /// Of the connections that come next.
    origin: Mutex<Option<Origin>>,
    authority: Arc<Authority>,
    addresses: Mutex<Result<Vec<IpAddr>, Reason>>,
    /// Whether no name may be at this host's address any more.
    closed: Arc<AtomicBool>,
    /// How many look-ups were answered.
    resolved: watch::Sender<usize>,
}

impl FakePort {
    fn assert_known(&self, agent: AgentId) {
        let origin = self.origin.lock().unwrap();
        assert_eq!(agent, origin.as_ref().unwrap().client.agent);
    }
}

impl Port for FakePort {
    fn origin(&self, netns: u64, _peer: SocketAddr) -> Option<Origin> {
        assert_eq!(netns, 7);
        self.origin.lock().unwrap().clone()
    }

    fn name_behind(&self, _agent: AgentId, ip: IpAddr) -> Option<HostName> {
        (ip == IpAddr::from([198, 18, 0, 9])).then(|| "inner.example".parse().unwrap())
    }

    /// Another address of the same kind is the internet of these tests.
    fn is_own(&self, ip: IpAddr) -> bool {
        ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || ip.is_unspecified()
    }

    fn closed(&self, _agent: AgentId, _name: &HostName, ip: IpAddr) -> Option<Reason> {
        let closed = self.closed.load(Ordering::Relaxed) && ip == IpAddr::V4(Ipv4Addr::LOCALHOST);
        closed.then(|| Reason::new(ReasonCode::Rebinding, "it may not be there"))
    }

    async fn resolve(&self, agent: AgentId, name: &HostName) -> Result<Vec<IpAddr>, Reason> {
        self.assert_known(agent);
        if name.as_str() == "nowhere.example" {
            let code = ReasonCode::NameUnknown;
            return Err(Reason::new(code, "there is no such name"));
        }
        self.resolved.send_modify(|count| *count += 1);
        self.addresses.lock().unwrap().clone()
    }

    async fn sign(
        &self,
        agent: AgentId,
        subject: &Subject,
        public_key: &[u8],
    ) -> Result<Leaf, Reason> {
        self.assert_known(agent);
        Ok(self.authority.sign(subject, public_key))
    }
}

/// A proxy before one upstream.
struct World {
    upstream: TcpListener,
    proxy: SocketAddr,
    log: Arc<Log>,
    policies: Arc<Policies>,
    decider: Decider<Log>,
    shared: Arc<Shared<Log>>,
    closed: Arc<AtomicBool>,
    resolved: watch::Sender<usize>,
    outside: Arc<FakePort>,
    /// The guard's own.
    authority: Arc<Authority>,
    /// Whom upstreams are certified by.
    upstreams: Authority,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
    /// Where its budgets are kept.
    _ledger: TempDir,
}

/// How to build one.
struct Plan {
    rules: Rules,
    name: Option<&'static str>,
    limits: Limits,
    /// How many event loops carry connections; 0: the test's own.
    loops: usize,
    origin_known: bool,
    addresses: Result<Vec<IpAddr>, Reason>,
    /// Where the upstream is.
    upstream: Ipv4Addr,
    /// At which port; 0: any.
    upstream_port: u16,
    /// Changes how upstreams are reached and verified. A proxy at port 0 is where the upstream is.
    entry: fn(&mut UpstreamEntry, &Authority),
    /// Whether it has read certificates and keys.
    trusts: bool,
}

fn by_name(rules: Rules) -> Plan {
    Plan {
        rules,
        name: Some("api.example"),
        limits: Limits::default(),
        loops: 0,
        origin_known: true,
        addresses: Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]),
        upstream: Ipv4Addr::LOCALHOST,
        upstream_port: 0,
        entry: |_, _| {},
        trusts: true,
    }
}

/// A name whose address is not the proxy's own.
fn beyond(rules: Rules) -> Plan {
    let upstream = Ipv4Addr::new(127, 0, 0, 2);
    Plan {
        addresses: Ok(vec![upstream.into()]),
        upstream,
        ..by_name(rules)
    }
}

fn by_address(rules: Rules) -> Plan {
    Plan {
        name: None,
        ..by_name(rules)
    }
}

impl Plan {
    async fn build(self) -> World {
        let upstream = TcpListener::bind((self.upstream, self.upstream_port))
            .await
            .unwrap();
        // With the guard's own queue: a flood that does not fit leaves clients that nobody knows of.
        let listener = TcpSocket::new_v4().unwrap();
        listener.set_reuseaddr(true).unwrap();
        listener.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = listener.listen(1024).unwrap();
        let proxy = listener.local_addr().unwrap();
        let port = upstream.local_addr().unwrap().port();
        let destination = match self.name {
            Some(_) => SocketAddr::from(([198, 18, 0, 1], port)),
            None => SocketAddr::from(([127, 0, 0, 1], port)),
        };
        let origin = self.origin_known.then(|| Origin {
            client: Client {
                agent: AgentId(1),
                run: 0,
                process: Process {
                    pid: 1,
                    uid: 1,
                    comm: "test".into(),
                    exe: None,
                },
            },
            destination,
            name: self.name.map(|name| name.parse().unwrap()),
        });
        let log = Arc::new(Log::default());
        let decider = decider(Arc::clone(&log), self.rules);
        let ledger = tempfile::tempdir().unwrap();
        let kept = Embedded::open(ledger.path(), jiff::Timestamp::now()).unwrap();
        let decider = decider.charging(Arc::new(Accounting::new(Arc::new(kept))));
        let policies = Arc::clone(decider.policies());
        let authority = Arc::new(Authority::new("the guard"));
        let upstreams = Authority::new("the internet");
        let closed = Arc::new(AtomicBool::new(false));
        let resolved = watch::Sender::new(0);
        let mut entry = UpstreamEntry {
            hosts: vec![("example".parse().unwrap(), true)],
            certificates: vec![upstreams.certificate()],
            revocations: Vec::new(),
            everywhere: false,
            address: None,
            proxy: None,
            server_name: None,
            identity: None,
        };
        (self.entry)(&mut entry, &upstreams);
        if let Some(proxy) = entry.proxy.as_mut().filter(|proxy| proxy.port == 0) {
            proxy.port = port;
        }
        let tls = Tls::new(vec![entry]);
        let loops = match self.loops {
            0 => EventLoops::here(),
            loops => EventLoops::start(loops, 2 << 20).unwrap(),
        };
        let shared = Arc::new(Shared::new(tls, self.limits, loops));
        if self.trusts {
            shared.trust(&[]).unwrap();
        }
        let port = Arc::new(FakePort {
            origin: Mutex::new(origin),
            authority: Arc::clone(&authority),
            addresses: Mutex::new(self.addresses),
            closed: Arc::clone(&closed),
            resolved: resolved.clone(),
        });
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve(
            listener,
            7,
            decider.clone(),
            Arc::clone(&port),
            Arc::clone(&shared),
            shutdown.clone(),
        ));
        World {
            upstream,
            proxy,
            log,
            policies,
            decider,
            shared,
            closed,
            resolved,
            outside: port,
            authority,
            upstreams,
            shutdown,
            served,
            _ledger: ledger,
        }
    }
}

fn decider(log: Arc<Log>, rules: Rules) -> Decider<Log> {
    let directory = Arc::new(Directory::default());
    directory.agent(AgentId(1), "tester".parse().unwrap());
    directory.agent(AgentId(2), "another".parse().unwrap());
    let decider = Decider::new(Arc::new(Policies::new(1, policy(rules))), directory, log);
    let decider = decider.pinning(Arc::new(pinned::Seen::default()));
    match rules.is_of_accounts() {
        true => decider.charging(Arc::new(accounts::accounting())),
        false => decider,
    }
}

/// Changes of a policy that never come.
pub(crate) fn no_changes() -> Changes {
    decider(Arc::default(), Rules::Allow).changes()
}

fn policy(rules: Rules) -> Policy {
    let providers = match rules {
        Rules::Calls
        | Rules::CallsUnread
        | Rules::CallsFew
        | Rules::CallsFewOnce
        | Rules::CallsMany
        | Rules::CallsCarried
        | Rules::CallsEach
        | Rules::CallsTimed
        | Rules::CallsPaid
        | Rules::CallsKinds
        | Rules::CallsUnreadAllowed
        | Rules::Accounts
        | Rules::AccountsByCalls
        | Rules::AccountsByBaggage
        | Rules::AccountsBySessions
        | Rules::CallsAsked
        | Rules::CallsAskedOfSmall
        | Rules::CallsAskedOfAny
        | Rules::CallsFetched
        | Rules::CallsCut
        | Rules::CallsByPost
        | Rules::CallsAskedOfLarge
        | Rules::Live
        | Rules::LiveKept
        | Rules::Edited
        | Rules::Kept => "[{ name: ours, api: openai, hosts: [api.example] }]",
        Rules::CallsKnown => "[{ name: openai, api: openai, hosts: [api.example] }]",
        Rules::GeminiFew => "[{ name: gemini, api: gemini, hosts: [api.example] }]",
        Rules::CallsByPath | Rules::GeminiAsked | Rules::GeminiCut => {
            "[{ name: ours, api: gemini, hosts: [api.example] }]"
        }
        Rules::CohereAsked => "[{ name: ours, api: cohere, hosts: [api.example] }]",
        Rules::OllamaAsked => "[{ name: ours, api: ollama, hosts: [api.example] }]",
        Rules::AwsUnread | Rules::AwsAsked | Rules::AwsCut => {
            "[{ name: ours, api: bedrock, hosts: [api.example] }]"
        }
        _ => "[]",
    };
    let not_understood = match rules {
        Rules::CallsAskedOfAny | Rules::CallsFetched | Rules::CallsUnreadAllowed => "allow",
        _ => "deny",
    };
    let trusts = match rules {
        Rules::AccountsByCalls => "[llm]",
        Rules::AccountsByBaggage => "[baggage, llm]",
        Rules::AccountsBySessions => "[mcp]",
        _ => "[]",
    };
    let budgets = match rules {
        Rules::CallsFew | Rules::GeminiFew | Rules::CallsFewOnce => {
            "[{ id: out, unit: output_tokens, limit: 300, window: day }]"
        }
        Rules::CallsEach => {
            "[{ id: out, unit: output_tokens, limit: 100000, window: day, per: [model] }]"
        }
        Rules::CallsTimed => "[{ id: time, unit: wall_time, limit: 1s, window: lifetime }]",
        Rules::CallsPaid => "[{ id: paid, unit: micro_usd, limit: $100, window: day }]",
        Rules::CallsKinds => {
            "[{ id: cached, unit: cached_tokens, limit: 100000, window: day }, \
              { id: reasoned, unit: reasoning_tokens, limit: 8000, window: day }]"
        }
        Rules::Bytes => {
            "[{ id: leaves, unit: bytes_out, limit: 2000, window: day }, \
              { id: comes, unit: bytes_in, limit: 2000, window: day }]"
        }
        Rules::CallsCarried => {
            "[{ id: out, unit: output_tokens, limit: 100000, window: day }, \
              { id: comes, unit: bytes_in, limit: 8000, window: day }]"
        }
        Rules::CallsMany | Rules::CallsKnown => {
            "[{ id: out, unit: output_tokens, limit: 100000, window: day }]"
        }
        _ if rules.is_of_accounts() => {
            "[{ id: calls, unit: calls, limit: 1, window: lifetime, per: [user] }, \
              { id: tools, unit: tool_calls, limit: 1, window: lifetime, per: [session] }]"
        }
        _ => "[]",
    };
    let limits = match rules {
        Rules::CallsFewOnce => {
            "[{ id: loops, repeats: { calls: 1, within: 1h } }, \
              { id: burst, rate: { calls: 2, every: 1h }, tool: {} }]"
        }
        _ => "[]",
    };
    let rules = match rules {
        Rules::Allow | Rules::Bytes => {
            "[{ id: all, action: allow, resolved_ranges: [127.0.0.0/8], match: { host: ['*.example'] } }, \
                          { id: addresses, action: allow, match: { cidr: [127.0.0.0/8] } }]"
        }
        Rules::ButOneAddress => {
            "[{ id: all, action: allow, resolved_ranges: [127.0.0.0/8], match: { host: ['*.example'] } }, \
                          { id: bad, action: deny, match: { cidr: [127.0.0.66/32] } }]"
        }
        Rules::ButTunnels => {
            "[{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], match: { host: ['*.example'] } }, \
                          { id: bad, action: deny, match: { cidr: [127.0.0.2/32], method: [CONNECT] } }]"
        }
        Rules::Deny => "[]",
        Rules::Inspect => {
            "[{ id: ok, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], method: [GET, POST], path: ['/ok/**', /ok] } }]"
        }
        Rules::Proxy => {
            "[{ id: proxy, action: allow, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], method: [CONNECT] } }, \
              { id: inner, action: allow, resolved_ranges: [127.0.0.0/8], \
                match: { host: [inner.example], method: [GET], path: [/ok] } }]"
        }
        Rules::Inner => {
            "[{ id: inner, action: allow, resolved_ranges: [127.0.0.0/8], \
                match: { host: [inner.example] } }]"
        }
        Rules::ButPostToOneAddress => {
            "[{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: ['*.example'] } }, \
              { id: bad, action: deny, match: { cidr: [127.0.0.66/32], method: [POST] } }]"
        }
        Rules::Sized => {
            "[{ id: ok, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example] } }, \
              { id: large, action: deny, reason: Not so much., \
                match: { host: [api.example], body_over: 1000 } }]"
        }
        Rules::SizedOnPaper => {
            "[{ id: ok, action: allow, resolved_ranges: [127.0.0.0/8], match: { host: [api.example] } }, \
              { id: large, action: deny, mode: shadow, \
                match: { host: [api.example], body_over: 1000 } }]"
        }
        Rules::InspectLess => {
            "[{ id: ok, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], method: [GET, POST], path: [/ok] } }]"
        }
        Rules::Changed => {
            "[{ id: changed, action: modify, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example] }, \
                modify: { headers: { drop: [cookie], set: { x-agent: tester } } } }]"
        }
        Rules::Tools => {
            "[{ id: read, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], tool: { name: [read], arguments: { /path: ['/data/*'] } } } }]"
        }
        Rules::AskedBack => {
            "[{ id: read, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], tool: { name: [read] } } }, \
              { id: sampling, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], tool: { method: [sampling/createMessage] } } }, \
              { id: secrets, action: deny, reason: Tell it nothing., \
                match: { host: [api.example], tool: { method: [elicitation/create] } } }]"
        }
        Rules::Agents => {
            "[{ id: ask, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], tool: { name: [SendMessage, SendStreamingMessage, GetTask, GetExtendedAgentCard] } } }, \
              { id: secret, action: deny, reason: Not this., \
                match: { host: [api.example], tool: { arguments: { /message/parts: ['*secret*'] } } } }]"
        }
        Rules::Edited => {
            "[{ id: calls, action: modify, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], llm: {} }, \
                modify: { redact: [/metadata, '/messages/*/name'], clamp: { /max_tokens: 100, /n: 3 }, \
                    json_patch: [{ op: add, path: /store, value: false }] } }, \
              { id: tools, action: modify, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], tool: { name: ['*'] } }, \
                modify: { redact: [/token], clamp: { /limit: { min: 1, max: 9 } } } }]"
        }
        Rules::Fields => {
            "[{ id: other, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], tool: { name: [other] } } }, \
              { id: send, action: modify, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], tool: { name: [send] } }, \
                modify: { headers: { drop: [cookie] } } }]"
        }
        Rules::Kept => {
            "[{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example] }, obligations: { capture_body: true } }, \
              { id: calls, action: modify, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], llm: {} }, modify: { redact: [/user] } }]"
        }
        Rules::Live => {
            "[{ id: small, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], llm: { operation: [realtime], model: [small] } } }, \
              { id: scribe, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], llm: { model: [scribe] } } }, \
              { id: shell, action: deny, reason: No shell., \
                match: { host: [api.example], llm: { model: [small], tools: [shell] } } }, \
              { id: long, action: deny, reason: Too long., \
                match: { host: [api.example], llm: { max_output_over: 100 } } }]"
        }
        Rules::LiveKept => {
            "[{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], llm: {} }, obligations: { capture_body: true } }]"
        }
        Rules::CallsUnread
        | Rules::CallsFew
        | Rules::GeminiFew
        | Rules::CallsFewOnce
        | Rules::CallsMany
        | Rules::CallsCarried
        | Rules::CallsEach
        | Rules::CallsTimed
        | Rules::CallsPaid
        | Rules::CallsKinds
        | Rules::CallsKnown
        | Rules::CallsUnreadAllowed
        | Rules::AwsUnread
        | Rules::Accounts
        | Rules::AccountsByCalls
        | Rules::AccountsByBaggage
        | Rules::AccountsBySessions => {
            "[{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example] } }]"
        }
        Rules::CallsAsked
        | Rules::AwsAsked
        | Rules::GeminiAsked
        | Rules::CohereAsked
        | Rules::OllamaAsked => {
            "[{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example] } }, \
              { id: shell, action: deny, reason: No shell., \
                match: { host: [api.example], llm: { tool_calls: [shell] } } }]"
        }
        Rules::CallsAskedOfSmall | Rules::CallsAskedOfAny => {
            "[{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example] } }, \
              { id: shell, action: deny, reason: No shell., \
                match: { host: [api.example], llm: { model: [small], tool_calls: [shell] } } }]"
        }
        Rules::CallsFetched => {
            "[{ id: fetched, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], llm: { operation: [retrieval] } } }]"
        }
        Rules::CallsCut | Rules::AwsCut | Rules::GeminiCut => {
            "[{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example] } }, \
              { id: shell, action: deny, reason: No shell., answer: cut, \
                match: { host: [api.example], llm: { tool_calls: [shell] } } }, \
              { id: format, action: deny, reason: No format., \
                match: { host: [api.example], llm: { tool_calls: [format] } } }]"
        }
        Rules::CallsByPost => {
            "[{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], method: [POST], llm: {} } }]"
        }
        Rules::CallsAskedOfLarge => {
            "[{ id: large, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], llm: { model: [large] } } }, \
              { id: shell, action: deny, reason: No shell., \
                match: { host: [api.example], llm: { tool_calls: [shell] } } }]"
        }
        Rules::CallsByPath => {
            "[{ id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example] } }, \
              { id: large, action: deny, reason: Not this., \
                match: { host: [api.example], llm: { model: [large] } } }]"
        }
        Rules::Calls => {
            "[{ id: small, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], \
                match: { host: [api.example], llm: { model: [small] } } }, \
              { id: shell, action: deny, reason: No shell., \
                match: { host: [api.example], llm: { tools: [shell] } } }]"
        }
        Rules::Requests => {
            "[{ id: ok, action: allow, resolved_ranges: [127.0.0.0/8], \
                             match: { host: [api.example], method: [GET, HEAD], path: ['/ok/**', /ok] } }]"
        }
    };
    let text = format!(
        "version: 1\ndefaults: {{ not_understood: {not_understood} }}\nproviders: {providers}\ntool_servers: [{{ name: files, api: mcp, hosts: [api.example], paths: [/mcp], list: allowed }}, {{ name: held, api: mcp, hosts: [api.example], paths: [/held], pin: deny }}, {{ name: told, api: mcp, hosts: [api.example], paths: [/told] }}, {{ name: chain, api: json_rpc, hosts: [api.example], paths: [/rpc] }}, {{ name: planner, api: a2a, hosts: [api.example], paths: ['/planner/**'], pin: deny }}, {{ name: guide, api: a2a, hosts: [api.example], paths: ['/guide/**'] }}, {{ name: code, api: graphql, hosts: [api.example], paths: [/graphql] }}, {{ name: tracker, api: http, hosts: [api.example], paths: ['/tracker/**'], tools: [{{ name: create, method: [POST], path: '/tracker/{{project}}/issues', types: {{ limit: integer }} }}, {{ name: by_token, method: [POST], path: '/tracker/by-token/{{token}}/x' }}] }}]\nagents: [{{ name: tester, trusts: {trusts} }}, {{ name: another }}]\nbudgets: {budgets}\nlimits: {limits}\nrules: {rules}\n"
    );
    let path = "policy.yaml".to_owned();
    match compile(&[Document { path, text }]) {
        Ok(policy) => policy,
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

impl World {
    async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(self.proxy)).await.unwrap()
    }

    /// Connects, and waits until the proxy has looked up where that may go, as the `nth` connection.
    async fn looked_up(&self, nth: usize) -> TcpStream {
        let client = self.connect().await;
        let mut resolved = self.resolved.subscribe();
        soon(resolved.wait_for(|count| *count >= nth))
            .await
            .unwrap();
        client
    }

    /// What connects from now on is this agent's.
    fn comes_from(&self, agent: u32) {
        let mut origin = self.outside.origin.lock().unwrap();
        origin.as_mut().unwrap().client.agent = AgentId(agent);
    }

    /// What connects from now on dialled this name.
    fn leads_to(&self, name: &str) {
        let mut origin = self.outside.origin.lock().unwrap();
        origin.as_mut().unwrap().name = Some(name.parse().unwrap());
    }

    /// Puts another policy in force.
    fn change(&self, rules: Rules) {
        self.policies.put(2, policy(rules));
    }

    /// The proxy's connection to the upstream.
    async fn accept(&self) -> TcpStream {
        soon(self.upstream.accept()).await.unwrap().0
    }

    fn port(&self) -> u16 {
        self.upstream.local_addr().unwrap().port()
    }

    /// Waits until so many decisions were given to the record, whether it has written them or not.
    async fn given(&self, count: usize) {
        let mut given = self.log.given.subscribe();
        soon(given.wait_for(|given| *given >= count)).await.unwrap();
    }

    /// The decisions, once `enough` of them are there.
    async fn until(&self, enough: impl Fn(&[Decision]) -> bool) -> Vec<Decision> {
        let wait = async {
            loop {
                let changed = self.log.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let decisions = self.log.decisions.lock().unwrap().clone();
                if enough(&decisions) {
                    return decisions;
                }
                changed.await;
            }
        };
        match timeout(PATIENCE, wait).await {
            Ok(decisions) => decisions,
            Err(_) => panic!("the record is {:#?}", self.log.decisions.lock().unwrap()),
        }
    }

    /// Shuts the proxy down and answers with all it recorded.
    async fn end(self) -> Vec<Decision> {
        self.shutdown.cancel();
        soon(self.served).await.unwrap();
        let decisions = self.log.decisions.lock().unwrap();
        for decision in decisions.iter() {
            // What is said of a list goes nowhere itself.
            let allowed = decision.verdict != Verdict::Deny
                && decision.action.kind != ActionKind::ToolDefinition;
            assert_eq!(decision.outcome.is_some(), allowed, "{decision:#?}");
        }
        decisions.clone()
    }
}

/// An address that never answers, while what is held lives: its queue is full.
pub(crate) async fn silent() -> (SocketAddr, (Socket, Vec<TcpStream>)) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 9], 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    let connect = || timeout(Duration::from_millis(100), TcpStream::connect(address));
    while let Ok(stream) = connect().await {
        queued.push(stream.unwrap());
    }
    (address, (listener, queued))
}

/// Lets all else go on until it waits for something: nothing here takes a thread of its own.
async fn settled() {
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it hangs")
}

/// Verdict and reason of each decision.
fn codes(decisions: &[Decision]) -> Vec<(Verdict, ReasonCode)> {
    decisions
        .iter()
        .map(|d| (d.verdict, d.reason.code))
        .collect()
}

fn allowed(decisions: &[Decision]) -> Vec<bool> {
    decisions
        .iter()
        .map(|d| d.verdict == Verdict::Allow)
        .collect()
}

async fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    soon(stream.read_to_end(&mut all)).await.map(|_| all)
}

async fn read_some(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut some = vec![0; count];
    soon(stream.read_exact(&mut some)).await.unwrap();
    some
}

/// Reads up to and with `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    while !all.ends_with(end.as_bytes()) {
        let byte = soon(stream.read_u8()).await;
        all.push(byte.unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&all))));
    }
    String::from_utf8(all).unwrap()
}

async fn write(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    soon(stream.write_all(bytes.as_ref())).await.unwrap();
}

async fn assert_reset(stream: &mut TcpStream) {
    let error = read_all(stream).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
