//! How Redis is reached: by password, with few rights, in a cluster, by TLS.

use agentguard_model::budget::{Unit, Window};
use agentguard_model::ledger::{OnLoss, Password, SharedLedger};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    NOW, Options, PATIENT, Server, Shared, budget, charge, expire, one, open, options, settled,
    until, used_and_held, want,
};
use crate::ledger::Ledger as _;
use crate::redis::tls;
use crate::redis::wire::{Reply, reply};

#[tokio::test]
async fn it_says_who_it_is() {
    let arguments = ["--appendonly", "no", "--requirepass", "open sesame"];
    let Some(server) = Server::start(&arguments) else {
        return;
    };
    let with = |password: Option<&str>| Options {
        password: password.map(|it| Password(it.to_owned())),
        ..options(&server)
    };
    for (password, told) in [(None, "NOAUTH"), (Some("wrong"), "WRONGPASS")] {
        let shared = Shared::open(with(password)).await;
        let (_, why) = shared.standing().away.expect("away");
        assert!(why.contains(told), "{why}");
    }
    assert_eq!(
        format!("{:?}", with(Some("secret")).password),
        "Some(Password(..))"
    );
    open(&with(Some("open sesame"))).await;
}

/// With no more rights than docs/configuration.md gives it.
#[tokio::test]
async fn the_rights_that_the_page_names_are_enough() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let page = include_str!("../../../../../docs/configuration.md");
    let rights = page
        .split('`')
        .filter(|it| it.starts_with('+'))
        .collect::<Vec<_>>();
    let rights = rights.join(" ").replace("PREFIX", "tests");
    let user = ["ACL", "SETUSER", "agentguard", "on", ">secret"];
    let user: Vec<&str> = user.into_iter().chain(rights.split_whitespace()).collect();
    assert_eq!(server.ask(&user), Reply::Status("OK".to_owned()));
    let narrow = Options {
        username: Some("agentguard".to_owned()),
        on_loss: OnLoss::Lease(5),
        password: Some(Password("secret".to_owned())),
        ..options(&server)
    };
    let shared = open(&narrow).await;
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    let places = budget("p", Unit::Destinations, 5, Window::Day);
    let asked = want(
        vec![
            charge(&tokens, "a", 1, 1_000_000),
            charge(&places, "a", 0, 0),
        ],
        10,
        1,
    );
    let granted = shared.reserve(&asked, NOW).await.expect("room");
    let budgets = [tokens.clone(), places];
    assert_eq!(
        shared
            .extend(granted.id, 5.into(), &budgets, NOW)
            .await
            .expect("room"),
        5
    );
    until(&shared, "it is drawn", |it| it.leased == 1).await;
    expire(&server);
    shared.reserve(&asked, NOW).await.expect("room");
    shared.settle(granted.id, Some(&[7, 0]), NOW);
    let listed = shared.accounts(NOW).await.expect("a list").states;
    assert_eq!(listed.len(), 2);
    for state in listed.iter().filter(|it| &*it.budget == "p") {
        assert!(shared.set(state, 0, NOW).await.expect("an answer"));
    }
    assert!(shared.close(PATIENT).await);
    assert_eq!(used_and_held(&server, &tokens), (7, 11));
}

#[tokio::test]
async fn a_cluster_finds_all_keys_in_one_place() {
    let Some(server) = Server::start(&["--appendonly", "no", "--cluster-enabled", "yes"]) else {
        return;
    };
    let shared = Shared::open(options(&server)).await;
    let (_, why) = shared.standing().away.expect("away");
    assert!(why.contains("CLUSTERDOWN"), "{why}");
    server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    settled(&shared).await;
    let budgets: Vec<_> = (0..5)
        .map(|it| budget(&format!("b{it}"), Unit::Tokens, 100, Window::Day))
        .collect();
    let charges = budgets.iter().map(|it| charge(it, "a", 1, 1_000_000));
    let asked = want(charges.collect(), 10, 1);
    let granted = shared.reserve(&asked, NOW).await.expect("room");
    assert_eq!(
        shared
            .extend(granted.id, 5.into(), &budgets, NOW)
            .await
            .expect("room"),
        5
    );
    shared.settle(granted.id, None, NOW);
    settled(&shared).await;
    assert_eq!(used_and_held(&server, &budgets[4]), (16, 0));
    let listed = shared.accounts(NOW).await.expect("a list").states;
    assert_eq!(listed.len(), 5);
    for state in listed {
        assert_eq!(state.used, 16);
        assert!(shared.set(&state, 3, NOW).await.expect("an answer"));
    }
    assert_eq!(used_and_held(&server, &budgets[4]), (3, 0));
}

#[tokio::test]
async fn it_is_spoken_to_by_tls_and_only_if_it_is_who_it_should_be() {
    let directory = TempDir::new().expect("a directory");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    let made = made.expect("a certificate");
    let (certificate, key) = (
        directory.path().join("c.pem"),
        directory.path().join("k.pem"),
    );
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let arguments = [
        "--appendonly",
        "no",
        "--tls-port",
        &port.to_string(),
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &certificate.display().to_string(),
        "--tls-key-file",
        &key.display().to_string(),
    ];
    let Some(server) = Server::start(&arguments) else {
        return;
    };
    // As the configuration has it: with an authority of its own, or as one of the system's; and with none of both.
    let with = |certificates, system: &[rustls_pki_types::CertificateDer<'static>]| {
        let ledger = SharedLedger {
            host: "127.0.0.1".to_owned(),
            port,
            prefix: "tests".to_owned(),
            username: None,
            password: None,
            tls: true,
            certificates,
            timeout: PATIENT,
            on_loss: OnLoss::Deny,
        };
        let tls = tls(&ledger, system).expect("authorities");
        Options::of(&ledger, Some(tls))
    };
    let own = made.cert.der().clone();
    drop(open(&with(Vec::new(), std::slice::from_ref(&own))).await);
    let shared = open(&with(vec![own.to_vec()], &[])).await;
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    shared.reserve(&one(&tokens, 10), NOW).await.expect("room");
    assert_eq!(used_and_held(&server, &tokens), (0, 10));
    let shared = Shared::open(with(Vec::new(), &[])).await;
    let (_, why) = shared.standing().away.expect("away");
    assert!(why.contains("certificate"), "{why}");
}

/// A node of a cluster that has none of the keys.
#[tokio::test]
async fn a_node_that_says_where_the_keys_are_is_left() {
    let Some(server) = Server::start(&["--appendonly", "no"]) else {
        return;
    };
    let node = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a port");
    let address = node.local_addr().expect("an address").to_string();
    let moved = format!("-MOVED 3999 {}\r\n", server.address());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = node.accept().await.expect("a connection");
        for answer in ["$1\r\nx\r\n", &moved] {
            let mut came = Vec::new();
            while reply(&came) == Ok(None) {
                stream.read_buf(&mut came).await.expect("a command");
            }
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
    });
    let shared = Shared::open(Options {
        address,
        ..options(&server)
    });
    let shared = shared.await;
    settled(&shared).await;
    serving.await.expect("it was asked");
    let tokens = budget("t", Unit::Tokens, 100, Window::Day);
    shared.reserve(&one(&tokens, 10), NOW).await.expect("room");
    assert_eq!(used_and_held(&server, &tokens), (0, 10));
}
