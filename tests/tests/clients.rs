//! Real, unmodified clients under `agentguard run`, allowed and denied: each behaves as without the
//! guard or fails in words that its user understands, and the record has exactly what it attempted.

#[path = "clients/room.rs"]
mod room;

#[path = "clients/a2a.rs"]
mod a2a;
#[path = "clients/agents.rs"]
mod agents;
#[path = "clients/apis.rs"]
mod apis;
#[path = "clients/asked_back.rs"]
mod asked_back;
#[path = "clients/browser.rs"]
mod browser;
#[path = "clients/budgets.rs"]
mod budgets;
#[path = "clients/capped.rs"]
mod capped;
#[path = "clients/charged.rs"]
mod charged;
#[path = "clients/clamped.rs"]
mod clamped;
#[path = "clients/curl.rs"]
mod curl;
#[path = "clients/cut_out.rs"]
mod cut_out;
#[path = "clients/device.rs"]
mod device;
#[path = "clients/dig.rs"]
mod dig;
#[path = "clients/dnsperf.rs"]
mod dnsperf;
#[path = "clients/early_hints.rs"]
mod early_hints;
#[path = "clients/events.rs"]
mod events;
#[path = "clients/git.rs"]
mod git;
#[path = "clients/git_smart.rs"]
mod git_smart;
#[path = "clients/grpc.rs"]
mod grpc;
#[path = "clients/inspected.rs"]
mod inspected;
#[path = "clients/isolated.rs"]
mod isolated;
#[path = "clients/java.rs"]
mod java;
#[path = "clients/ledger.rs"]
mod ledger;
#[path = "clients/limits.rs"]
mod limits;
#[path = "clients/local_tools.rs"]
mod local_tools;
#[path = "clients/loops.rs"]
mod loops;
#[path = "clients/mcp.rs"]
mod mcp;
#[path = "clients/node.rs"]
mod node;
#[path = "clients/packages.rs"]
mod packages;
#[path = "clients/pinned.rs"]
mod pinned;
#[path = "clients/providers.rs"]
mod providers;
#[path = "clients/python.rs"]
mod python;
#[path = "clients/raw.rs"]
mod raw;
#[path = "clients/realtime.rs"]
mod realtime;
#[path = "clients/redis.rs"]
mod redis;
#[path = "clients/requests.rs"]
mod requests;
#[path = "clients/resumed.rs"]
mod resumed;
#[path = "clients/sdk.rs"]
mod sdk;
#[path = "clients/sdks.rs"]
mod sdks;
#[path = "clients/serving.rs"]
mod serving;
#[path = "clients/shared_budgets.rs"]
mod shared_budgets;
#[path = "clients/soft_budgets.rs"]
mod soft_budgets;
#[path = "clients/spent.rs"]
mod spent;
#[path = "clients/storm.rs"]
mod storm;
#[path = "clients/telemetry.rs"]
mod telemetry;
#[path = "clients/tunnels.rs"]
mod tunnels;
#[path = "clients/turns.rs"]
mod turns;
#[path = "clients/typed.rs"]
mod typed;
#[path = "clients/unchanged.rs"]
mod unchanged;
#[path = "clients/upstreams.rs"]
mod upstreams;
#[path = "clients/via.rs"]
mod via;
#[path = "clients/websocket.rs"]
mod websocket;
#[path = "clients/wget.rs"]
mod wget;
