"""What a decision of agent-governance-toolkit costs: `policy_peer.py DIRECTORY`.

DIRECTORY has what `decisions describe` wrote (agentguard/policy/examples/decisions): for each case its rules, and
calls with what the rules say of them. Each figure is printed as a line of JSON: `case`, `subject`, `metric`, `unit`,
`value`.

The evaluator's rules have one condition each, on one field of a flat context, and the first rule that matches decides.
So each of our rules becomes one rule of its, on a field in which the caller has joined what the rule looks at; the
contexts are made before the clock runs. Of the operators those are used that compare fastest, `eq` and `contains`;
`matches` would compile its expressions again and again where there are more than Python's cache holds. Denials come
first in the document, in the order of their priority, so that the sort before each evaluation finds all in order.

What is not equivalent, each in the evaluator's favour:
- A name below a domain: the caller says below which one the name is, instead of the rule looking.
- A range of addresses: the caller says in which /24 the address is.
- A path and what is below it: the beginning of the path is looked for anywhere in the request.
- A header field has one value here, compared as it is.
- Nothing is said of requests that are not seen yet, of modes, or of how a flow is carried; one rule is named, not all.
"""

import gc
import json
import pathlib
import sys
import time

from agent_os.policies.evaluator import PolicyEvaluator
from agent_os.policies.schema import PolicyDocument

SUBJECT = "agent-governance-toolkit"
# Calls that are timed for one figure, by the number of rules: what is looked at grows with it.
TIMED = {10: 20_000, 100: 10_000, 1_000: 2_000, 10_000: 512}


def condition(rule):
    host, port = rule["host"], rule["port"]
    if rule["cidr"]:
        return "network", "eq", rule["cidr"]
    if rule["path"]:
        target = f"{host}:{port}{rule['path']}/"
        if rule["method"]:
            target = f"{rule['method']} {target}"
        if rule["content_type"]:
            target = f"{rule['content_type']} {target}"
        return "request", "contains", target
    if host.startswith("*."):
        return "below", "eq", f"{host[2:]}:{port}"
    return "endpoint", "eq", f"{host}:{port}"


def document(case):
    rules = []
    for rule in sorted(case["rules"], key=lambda rule: rule["allow"]):
        field, operator, value = condition(rule)
        rules.append(
            {
                "name": rule["id"],
                "condition": {"field": field, "operator": operator, "value": value},
                "action": "allow" if rule["allow"] else "deny",
                "priority": 0 if rule["allow"] else 1,
            }
        )
    defaults = {"action": "deny"}
    return PolicyDocument.model_validate({"name": case["case"], "rules": rules, "defaults": defaults})


def context(call):
    host, port = call["host"], call["port"]
    fields = {"agent": "coder", "port": port}
    if host:
        fields["endpoint"] = f"{host}:{port}"
        fields["below"] = f"{host.partition('.')[2]}:{port}"
    elif call["ip"]:
        fields["endpoint"] = f"{call['ip']}:{port}"
        fields["network"] = f"{call['ip'].rpartition('.')[0]}.0/24"
    if call["method"]:
        fields["request"] = f"{call['content_type']} {call['method']} {host}:{port}{call['path']}"
    return fields


def measure(case):
    evaluator = PolicyEvaluator(policies=[document(case)])
    calls = [(context(call), call["allowed"]) for call in case["calls"]]
    timed = TIMED[len(case["rules"])]
    # Once all, so that nothing is measured that only the first time takes, and nothing that decides otherwise.
    for fields, allowed in calls:
        decision = evaluator.evaluate(fields)
        assert decision.allowed == allowed, (case["case"], fields, decision)
        assert not decision.audit_entry.get("error"), decision
    # The rules are there to stay: the collector of garbage need not walk over them in the middle of a call.
    gc.collect()
    gc.freeze()
    times = []
    for number in range(timed):
        fields, _ = calls[number % len(calls)]
        begun = time.perf_counter_ns()
        evaluator.evaluate(fields)
        times.append(time.perf_counter_ns() - begun)
    times.sort()
    for metric, part in ("p50", 50), ("p99", 99):
        value = times[len(times) * part // 100] / 1e3
        line = {"case": case["case"], "subject": SUBJECT, "metric": metric, "unit": "us", "value": value}
        print(json.dumps(line))


paths = sorted(pathlib.Path(sys.argv[1]).glob("*.json"))
assert paths, "no cases"
for path in paths:
    measure(json.loads(path.read_text()))
