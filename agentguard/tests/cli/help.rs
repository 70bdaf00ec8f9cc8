//! What is told of the command line itself.

use std::io::Read as _;
use std::process::Stdio;

use crate::world::agentguard;

#[test]
fn help() {
    agentguard(["-h"]).says(
        "\
Governs what AI agents send to the network

Usage: agentguard [OPTIONS] <COMMAND>

Commands:
  daemon    Run the guard, in the foreground
  run       Run a command as an agent
  mcp       Put the guard before a server of tools that an agent starts
  hook      Answer an agent's own hook: decide on a tool before it is used
  agent     List, show, add, remove, quarantine and release agents
  verdicts  List decisions, newest last
  explain   Say why a decision was taken, and what would change it
  policy    Check, test and try a policy, show the one in force, load it anew, set its switches
  budget    Show what of budgets is used and left, and how long it lasts; what models cost
  limits    Show what limits have counted, and which circuits are open
  tools     List what tools of servers were first seen as, show what changed, accept it
  ca        Show, export and rotate the certificate authority behind inspection
  status    Say how the guard is doing
  doctor    Say what this host has of what the guard needs; works without a daemon
  schema    Print the JSON Schema of a document

Options:
      --config <FILE>  The configuration [default: /etc/agentguard/config.yaml] [env:
                       AGENTGUARD_CONFIG]
  -o, --output <FORM>  The form of the output [default: table] [possible values: table, json, jsonl]
  -h, --help           Print help (see more with '--help')
  -V, --version        Print version

Exit codes: 0 done, 1 refused or failed, 2 usage or configuration error; run returns the code of its
command
",
        "",
        0,
    );
}

#[test]
fn help_of_a_command() {
    agentguard(["verdicts", "-h"]).says(
        "\
List decisions, newest last

Usage: agentguard verdicts [OPTIONS]

Options:
      --agent <NAME>       Of this agent
      --config <FILE>      The configuration [default: /etc/agentguard/config.yaml] [env:
                           AGENTGUARD_CONFIG]
  -o, --output <FORM>      The form of the output [default: table] [possible values: table, json,
                           jsonl]
      --verdict <VERDICT>  With this verdict [possible values: allow, deny, modify, escalate]
      --kind <KIND>        On this kind of action [possible values: connect, datagram, inbound,
                           socket, device, process, dns_query, http_request, llm_call, tool_call,
                           tool_definition, resource, administration, budget]
      --since <WHEN>       Not older than this: 90s, 10m, 3h, 2d, 1w, or a time such as
                           2026-01-31T12:00:00Z
      --limit <N>          The newest so many, at most 10000 [default: 100; with --follow 0]
      --follow             Go on with new ones as they are recorded
  -h, --help               Print help (see more with '--help')
",
        "",
        0,
    );
}

#[test]
fn help_of_a_command_of_commands() {
    agentguard(["policy", "-h"]).says(
        "\
Check, test and try a policy, show the one in force, load it anew, set its switches

Usage: agentguard policy [OPTIONS] <COMMAND>

Commands:
  check     Compile a policy and say everything that is wrong with it; works without a daemon
  test      Run the tests that are written beside a policy; works without a daemon
  simulate  Say what would change if recorded decisions were taken by another policy
  openapi   Write the operations of an OpenAPI document as tools of a policy; works without a daemon
  report    Say what the modes keep from being done: what would be denied or allowed in enforce mode
  show      Show the policy in force
  reload    Load the policy anew; one that is wrong leaves the old one in force
  switch    List the switches that the policy declares, or set one

Options:
      --config <FILE>  The configuration [default: /etc/agentguard/config.yaml] [env:
                       AGENTGUARD_CONFIG]
  -o, --output <FORM>  The form of the output [default: table] [possible values: table, json, jsonl]
  -h, --help           Print help (see more with '--help')
",
        "",
        0,
    );
    agentguard(["policy", "simulate", "-h"]).says(
        "\
Say what would change if recorded decisions were taken by another policy

Usage: agentguard policy simulate [OPTIONS] --policy <FILE>

Options:
      --config <FILE>  The configuration [default: /etc/agentguard/config.yaml] [env:
                       AGENTGUARD_CONFIG]
      --policy <FILE>  The other policy
  -o, --output <FORM>  The form of the output [default: table] [possible values: table, json, jsonl]
      --since <WHEN>   Not older than this: 90s, 10m, 3h, 2d, 1w, or a time such as
                       2026-01-31T12:00:00Z [default: 24h]
      --agent <NAME>   Of this agent
  -h, --help           Print help (see more with '--help')
",
        "",
        0,
    );
}

#[test]
fn help_of_what_sets_a_switch() {
    agentguard(["policy", "switch", "-h"]).says(
        "\
List the switches that the policy declares, or set one

Usage: agentguard policy switch [OPTIONS] [NAME] [TO]

Arguments:
  [NAME]  The switch, as the policy names it; without one, list all of them
  [TO]    How it is from now on; default: as the policy declares it [possible values: on, off,
          default]

Options:
      --config <FILE>    The configuration [default: /etc/agentguard/config.yaml] [env:
                         AGENTGUARD_CONFIG]
      --reason <REASON>  Why, for operators; no agent is told
  -o, --output <FORM>    The form of the output [default: table] [possible values: table, json,
                         jsonl]
  -h, --help             Print help (see more with '--help')
",
        "",
        0,
    );
}

#[test]
fn usage_errors() {
    for (arguments, told) in [
        (
            &["verdict"][..],
            "error: unrecognized subcommand 'verdict'\n\n  tip: a similar subcommand exists: 'verdicts'\n\nUsage: agentguard [OPTIONS] <COMMAND>\n\nFor more information, try '--help'.\n",
        ),
        (
            &["verdicts", "--kind", "dns"],
            "error: invalid value 'dns' for '--kind <KIND>'\n  [possible values: connect, datagram, inbound, socket, device, process, dns_query, http_request, llm_call, tool_call, tool_definition, resource, administration, budget]\n\n  tip: a similar value exists: 'dns_query'\n\nFor more information, try '--help'.\n",
        ),
        (
            &["verdicts", "--limit", "0"],
            "error: invalid value '0' for '--limit <N>': 0 is not in 1..=10000\n\nFor more information, try '--help'.\n",
        ),
        (
            &["verdicts", "--since", "yesterday"],
            "error: invalid value 'yesterday' for '--since <WHEN>': neither how long ago (90s, 10m, 3h, 2d, 1w) nor a time (2026-01-31T12:00:00Z)\n\nFor more information, try '--help'.\n",
        ),
        (
            &["verdicts", "--agent", "Not A Name"],
            "error: invalid value 'Not A Name' for '--agent <NAME>': `Not A Name` is not an agent name: 1 to 63 characters a-z 0-9 . _ -, the first a letter or digit\n\nFor more information, try '--help'.\n",
        ),
        (
            &["verdicts", "--follow", "-o", "json"],
            "error: --follow has no end, and one JSON document would have to\nhint: use -o jsonl: one document a line\n",
        ),
        (
            &["explain", "nonsense"],
            "error: invalid value 'nonsense' for '<DECISION_ID>': `nonsense` is not a decision id: 26 characters as `agentguard verdicts` prints them\n\nFor more information, try '--help'.\n",
        ),
        (
            &["agent", "add", "coder"],
            "error: the following required arguments were not provided:\n  --cgroup <PATH>\n\nUsage: agentguard agent add --cgroup <PATH> <NAME>\n\nFor more information, try '--help'.\n",
        ),
        (
            &["policy", "switch", "freeze"],
            "error: the following required arguments were not provided:\n  <TO>\n\nUsage: agentguard policy switch <NAME> <TO>\n\nFor more information, try '--help'.\n",
        ),
        (
            &["policy", "switch", "freeze", "maybe"],
            "error: invalid value 'maybe' for '[TO]'\n  [possible values: on, off, default]\n\nFor more information, try '--help'.\n",
        ),
        (
            &["policy", "switch", "--reason", "ticket 42"],
            "error: the following required arguments were not provided:\n  <NAME>\n  <TO>\n\nUsage: agentguard policy switch --reason <REASON> <NAME> <TO>\n\nFor more information, try '--help'.\n",
        ),
        (
            &["run", "--agent", "coder"],
            "error: the following required arguments were not provided:\n  <COMMAND>...\n\nUsage: agentguard run --agent <NAME> <COMMAND>...\n\nFor more information, try '--help'.\n",
        ),
    ] {
        agentguard(arguments).says("", told, 2);
    }
    let bare = agentguard::<[&str; 0]>([]).run();
    assert_eq!(bare.code, 2);
    assert!(bare.stderr.contains("Usage: agentguard"), "{}", bare.stderr);
}

#[test]
fn a_label_has_one_value() {
    agentguard([
        "run", "--agent", "coder", "--label", "a=1", "--label", "b=1", "--label", "a=2", "true",
    ])
    .says(
        "",
        "error: the label `a` is given twice\nhint: give each label once\n",
        2,
    );
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let mut child = agentguard(["schema", "decision"])
        .command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut told = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert_eq!(told, "");
    assert!(child.wait().unwrap().success());
}
