//! What documents include: what is read, in which order, and what is said where it cannot be.

use std::collections::BTreeMap;
use std::path::Path;

use agentguard_model::Transport;
use proptest::prelude::*;

use super::{agent, host};
use crate::{
    Circumstances, Diagnostic, Document, Facts, Policy, Seen, Sources, Unreadable, compile,
};

/// Files by their paths, and which were asked for.
struct Files {
    files: BTreeMap<String, String>,
    asked: Vec<String>,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let own = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        Self {
            files: files.iter().map(own).collect(),
            asked: Vec::new(),
        }
    }

    fn sources(&mut self, first: &str) -> Sources {
        let document = Document {
            path: first.to_owned(),
            text: self.files[first].clone(),
        };
        Sources::read(document, |path: &Path| {
            let path = path.to_str().unwrap().to_owned();
            let text = self.files.get(&path).cloned();
            self.asked.push(path);
            text.ok_or_else(|| Unreadable {
                why: "it is not there".to_owned(),
                hint: "a relative path counts from the directory of this document".to_owned(),
            })
        })
    }

    fn refused(&mut self, first: &str) -> Vec<String> {
        let refused = self.sources(first).compile().unwrap_err();
        refused.iter().map(ToString::to_string).collect()
    }
}

fn paths(sources: &Sources) -> Vec<&str> {
    let documents = sources.documents().iter();
    documents.map(|it| it.path.as_str()).collect()
}

fn ids(policy: &Policy) -> Vec<(&str, &str)> {
    policy
        .rules()
        .map(|rule| (rule.id.as_str(), rule.source.file.as_str()))
        .collect()
}

fn rule(id: &str) -> String {
    format!("rules: [{{id: {id}, match: {{host: [{id}.example]}}, action: allow}}]\n")
}

#[test]
fn what_is_included_is_read_once_from_where_it_is_included() {
    let main = format!(
        "version: 1\ninclude: [base/common.yaml, ../shared.yaml, ./more.yaml]\nagents: [{{name: coder}}]\n{}",
        rule("main")
    );
    let common = format!(
        "version: 1\ninclude: [names.yaml, /etc/site.yaml]\n{}",
        rule("common")
    );
    let shared = format!(
        "version: 1\ninclude: [ag/base/./names.yaml]\n{}",
        rule("shared")
    );
    let more = format!("version: 1\ninclude: [/etc/site.yaml]\n{}", rule("more"));
    let mut files = Files::new(&[
        ("/srv/ag/policy.yaml", &main),
        ("/srv/ag/base/common.yaml", &common),
        (
            "/srv/ag/base/names.yaml",
            "version: 1\nlists: {l: [names.example]}\nrules: [{id: names, match: {host: [\"@l\"]}, action: allow}]\n",
        ),
        ("/srv/shared.yaml", &shared),
        ("/srv/ag/more.yaml", &more),
        ("/etc/site.yaml", &format!("version: 1\n{}", rule("site"))),
    ]);
    let sources = files.sources("/srv/ag/policy.yaml");
    let order = [
        "/srv/ag/policy.yaml",
        "/srv/ag/base/common.yaml",
        "/srv/ag/base/names.yaml",
        "/etc/site.yaml",
        "/srv/shared.yaml",
        "/srv/ag/more.yaml",
    ];
    assert_eq!(paths(&sources), order);
    assert_eq!(files.asked, order[1..]);
    let policy = sources.compile().unwrap();
    assert_eq!(policy.warnings(), []);
    assert_eq!(
        ids(&policy),
        ["main", "common", "names", "site", "shared", "more"]
            .into_iter()
            .zip(order)
            .collect::<Vec<_>>()
    );
    // Whoever has the documents alone, as the worker, compiles the same.
    let again = compile(sources.documents()).unwrap();
    assert_eq!(
        (again.version(), ids(&again)),
        (policy.version(), ids(&policy))
    );
}

#[test]
fn a_path_counts_from_the_directory_of_the_document() {
    let text = "version: 1\ninclude: [x.yaml]\n";
    for (first, asked) in [
        ("p.yaml", "x.yaml"),
        ("./p.yaml", "x.yaml"),
        ("../a/p.yaml", "../a/x.yaml"),
        ("a/../b/p.yaml", "b/x.yaml"),
        ("/p.yaml", "/x.yaml"),
    ] {
        let mut files = Files::new(&[(first, text)]);
        files.sources(first);
        assert_eq!(files.asked, [asked], "{first}");
    }
    for (path, asked) in [
        ("../../x.yaml", "../x.yaml"),
        ("../../../../x.yaml", "../../../x.yaml"),
        ("/../x.yaml", "/x.yaml"),
        ("b//c/./x.yaml", "a/b/c/x.yaml"),
    ] {
        let text = format!("version: 1\ninclude: [{path}]\n");
        let mut files = Files::new(&[("a/p.yaml", &text)]);
        files.sources("a/p.yaml");
        assert_eq!(files.asked, [asked], "{path}");
    }
}

#[test]
fn what_cannot_be_included_is_told_where_it_is_included() {
    for (included, expected) in [
        (
            "[no.yaml]",
            &[
                "p.yaml:2:11: error: cannot read `no.yaml`: it is not there\n  hint: a relative path counts from the directory of this document",
            ][..],
        ),
        (
            "[one.yaml, \"./one.yaml\"]",
            &["p.yaml:2:21: error: `./one.yaml` is included twice here\n  hint: once suffices"],
        ),
        (
            "[p.yaml]",
            &[
                "p.yaml:2:11: error: `p.yaml` includes this document in turn, or is this document\n  hint: put what both need into a third document",
            ],
        ),
        (
            "[two.yaml]",
            &[
                "three.yaml:2:11: error: `two.yaml` includes this document in turn, or is this document\n  hint: put what both need into a third document",
            ],
        ),
        (
            "[\"\"]",
            &[
                "p.yaml:2:11: error: `` is not the path of a document\n  hint: name a file, from the directory of this one or with a `/` at the front",
            ],
        ),
        (
            "[]",
            &[
                "p.yaml:2:10: error: `include` is empty\n  hint: leave `include` out where nothing is included",
            ],
        ),
        (
            "one.yaml",
            &[
                "p.yaml:2:10: error: expected a list, found the text `one.yaml`\n  hint: write a list: [one.yaml]",
            ],
        ),
        // Of the documents that can be read everything that is wrong is told too, but not what the others may have.
        (
            "[no.yaml, wrong.yaml]",
            &[
                "p.yaml:2:11: error: cannot read `no.yaml`: it is not there\n  hint: a relative path counts from the directory of this document",
                "wrong.yaml:4:41: error: `0`: there is no port 0\n  hint: leave `port` out to match any; the first one is 1",
            ],
        ),
    ] {
        let text = format!("version: 1\ninclude: {included}\nagents: [{{name: coder}}]\n");
        let mut files = Files::new(&[
            ("p.yaml", &text),
            ("one.yaml", "version: 1\n"),
            ("two.yaml", "version: 1\ninclude: [three.yaml]\n"),
            ("three.yaml", "version: 1\ninclude: [two.yaml]\n"),
            (
                "wrong.yaml",
                "version: 1\nrules:\n  - {id: a, match: {host: [\"@l\", \"${v}\"]}, action: deny}\n  - {id: b, agents: [x], match: {port: [0]}, action: deny}\n",
            ),
        ]);
        let found = files.refused("p.yaml");
        assert_eq!(found, expected, "{included}");
    }
}

#[test]
fn documents_are_not_compiled_without_what_they_include() {
    let first = Document {
        path: "a/p.yaml".to_owned(),
        text: "version: 1\ninclude: [b.yaml]\n".to_owned(),
    };
    let second = |path: &str| Document {
        path: path.to_owned(),
        text: "version: 1\nagents: [{name: coder}]\n".to_owned(),
    };
    let found = compile(&[first.clone(), second("b.yaml")]).unwrap_err();
    assert_eq!(
        found.to_string(),
        "a/p.yaml:2:11: error: `b.yaml` is included and was not read\n  hint: read the policy from the document that includes the others"
    );
    assert!(compile(&[first, second("a/b.yaml")]).is_ok());
}

#[test]
fn what_is_read_is_bounded() {
    // A chain that is one too long.
    let chain: Vec<(String, String)> = (1..=17)
        .map(|n| {
            let text = format!("version: 1\ninclude: [{}.yaml]\n", n + 1);
            (format!("{n}.yaml"), text)
        })
        .collect();
    let chain: Vec<(&str, &str)> = chain
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let mut files = Files::new(&chain);
    assert_eq!(
        files.refused("1.yaml"),
        [
            "16.yaml:2:11: error: more than 16 documents, each of which includes the next\n  hint: include this one further up"
        ]
    );
    assert_eq!(files.asked.len(), 15);

    // One document too many, whether they are there or not.
    let many: Vec<_> = (0..100).map(|n| format!("{n}.yaml")).collect();
    let text = format!("version: 1\ninclude:\n  - {}\n", many.join("\n  - "));
    let mut files = Files::new(&[("p.yaml", &text)]);
    let sources = files.sources("p.yaml");
    assert_eq!(files.asked.len(), 63);
    let found: Vec<Diagnostic> = sources.compile().unwrap_err().into_iter().collect();
    assert_eq!(found.len(), 64);
    assert_eq!(
        found[63].to_string(),
        "p.yaml:66:5: error: more than 64 documents\n  hint: put several into one"
    );

    // 1 MiB for all of them.
    let half = format!("version: 1\n#{}\n", "x".repeat(600_000));
    let mut files = Files::new(&[
        ("p.yaml", "version: 1\ninclude: [a.yaml, b.yaml, c.yaml]\n"),
        ("a.yaml", &half),
        ("b.yaml", &half),
        ("c.yaml", &half),
    ]);
    assert_eq!(
        files.refused("p.yaml"),
        [
            "p.yaml:2:19: error: with `b.yaml` the policy has more than 1048576 bytes\n  hint: name long lists once, under `lists`"
        ]
    );
    assert_eq!(files.asked, ["a.yaml", "b.yaml"]);
}

proptest! {
    /// Cut into documents in any way, a policy says the same.
    #[test]
    fn a_policy_of_several_documents_is_one(
        rules in proptest::collection::vec((0..4_usize, 0..3_usize, any::<bool>(), any::<bool>()), 1..12),
        includes in proptest::collection::vec(0..4_usize, 3),
    ) {
        let hosts = ["a.example", "\"*.a.example\"", "\"@l\""];
        let names = "variables: {v: b.example}\nlists: {l: [\"${v}\", c.example]}\nagents: [{name: coder}]\n";
        let mut parts = vec![String::new(); 4];
        let mut whole = String::new();
        for (n, (part, to, allow, shadow)) in rules.iter().enumerate() {
            let action = if *allow { "allow" } else { "deny" };
            let mode = if *shadow { "shadow" } else { "enforce" };
            let host = hosts[*to];
            let rule = format!("  - {{id: r{n}, match: {{host: [{host}]}}, action: {action}, mode: {mode}}}\n");
            parts[*part].push_str(&rule);
            whole.push_str(&rule);
        }
        // Each document but the first is included by one before it, and the last one again by the first.
        let mut included = vec![Vec::new(); 4];
        for (n, by) in includes.iter().enumerate() {
            included[by % (n + 1)].push(n + 1);
        }
        if !included[0].contains(&3) {
            included[0].push(3);
        }
        let text = |n: usize| {
            let paths: Vec<_> = included[n].iter().map(|n| format!("{n}.yaml")).collect();
            let include = match paths.as_slice() {
                [] => String::new(),
                paths => format!("include: [{}]\n", paths.join(", ")),
            };
            let rules = match parts[n].as_str() {
                "" => String::new(),
                rules => format!("rules:\n{rules}"),
            };
            let names = if n == 3 { names } else { "" };
            format!("version: 1\n{include}{names}{rules}")
        };
        let texts: Vec<(String, String)> = (0..4).map(|n| (format!("{n}.yaml"), text(n))).collect();
        let texts: Vec<_> = texts.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let sources = Files::new(&texts).sources("0.yaml");
        prop_assert_eq!(sources.documents().len(), 4);
        let cut = sources.compile().unwrap();
        let whole = compile(&[Document {
            path: "p.yaml".to_owned(),
            text: format!("version: 1\n{names}rules:\n{whole}"),
        }])
        .unwrap();
        for name in ["a.example", "x.a.example", "b.example", "c.example", "d.example"] {
            let name = host(name);
            let facts = Facts {
                host: Some(&name),
                ip: None,
                port: 443,
                transport: Transport::Tcp,
                request: Seen::Never, circumstances: Circumstances::NOBODY };
            let said = |policy: &Policy| {
                let ruling = policy.decide(agent(policy, "coder"), &facts);
                (ruling.outcome, ruling.enforced, ruling.reason.code)
            };
            prop_assert_eq!(said(&cut), said(&whole));
        }
    }
}
