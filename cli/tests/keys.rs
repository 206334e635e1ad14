//! `flowmonkey key` and `flowmonkey audit`: the first key, an engine that asks for one, and a record that somebody changed.
#![expect(clippy::unwrap_used, reason = "test code")]

#[expect(dead_code, unreachable_pub, reason = "shared by several tests")]
mod servers;
mod support;

use flowmonkey_test_support::PostgresOptions;
use serde_json::json;
use servers::{Servers, good_redis};
use support::{Bench, http, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_answers_those_who_have_a_key() {
    let servers = Servers::with(PostgresOptions::default(), good_redis()).await;
    let database = servers.database.url();
    let bench = &servers.bench;
    let first = ["key", "create", "--name", "me", "--scope", "admin", "--database", &database];
    let key = bench.run(&first).expect(0).stdout.trim().to_owned();
    assert!(key.starts_with("fmk_"), "{key}");
    let token = bench.file("token", &format!("{key}\n"));
    let token = token.to_str().unwrap();

    let (_engine, url) = servers.guarded_engine(&[]);
    assert_eq!(http(&url, "GET", "/livez", "").0, 200);
    assert_eq!(http(&url, "GET", "/v1/executions", "").0, 401);
    let refused = bench.run(&["execution", "list", "--server", &url]);
    assert!(refused.code == 4 && refused.stderr.contains("KEY_MISSING"), "{}", refused.stderr);
    assert!(refused.stderr.contains("show a key: --token-file") && refused.stderr.contains("request rq_"));
    let wrong = bench.file("wrong", "fmk_0000000000000000_00000000000000000000000000000000\n");
    for verb in [&["execution", "list"][..], &["execution", "watch", "ex_00000000000000000000000000000001"]] {
        let given = ["--server", &url, "--token-file", wrong.to_str().unwrap()];
        let refused = bench.run(&[verb, &given].concat());
        assert!(refused.code == 4 && refused.stderr.contains("KEY_INVALID"), "{}", refused.stderr);
        assert!(refused.stderr.contains("the key was given by --token-file"), "{}", refused.stderr);
        assert!(refused.stderr.contains("others on this machine can read the token"), "{}", refused.stderr);
    }
    bench.run(&["execution", "list", "--server", &url, "--token-file", token]).expect(0);
    let with_key = |args: &[&str]| {
        bench.run(&[args, &["--server", &url, "--token-file", token, "--output", "json"]].concat())
    };
    let create = ["key", "create", "--name", "ci", "--scope", "viewer,operator", "--expires", "30d"];
    let made = with_key(&create).expect(0).json();
    assert_eq!(made["scopes"], json!(["viewer", "operator"]));
    assert!(made["expiresAt"].is_string());
    let id = made["id"].as_str().unwrap();
    let listed = with_key(&["key", "list"]).expect(0).json();
    let names: Vec<_> = listed["items"].as_array().unwrap().iter().map(|key| &key["name"]).collect();
    assert_eq!(names, ["ci", "me"]);
    with_key(&["key", "revoke", id]).expect(0);
    let again = bench.run(&["key", "list", "--database", &database, "--output", "json"]).expect(0).json();
    assert_eq!(again["items"][0]["state"], "revoked");

    let verify = ["audit", "verify", "--database", &database, "--output", "json"];
    let whole = wait_for("the audit to be sealed", || {
        let told = bench.run(&verify).expect(0).json();
        (told["last"] == 3).then_some(told)
    });
    assert_eq!(whole["whole"], true);
    assert_eq!(with_key(&["audit", "verify"]).expect(0).json(), whole);
    servers.sql("UPDATE fm_audit SET actor = 'key:other' WHERE place = 2").await;
    for told in [bench.run(&verify).expect(1), with_key(&["audit", "verify"]).expect(1)] {
        assert_eq!(told.json()["broken"]["place"], 2);
    }
}

#[test]
fn a_data_directory_has_keys_for_later() {
    let bench = Bench::new();
    bench.file("hello.yaml", support::HELLO);
    bench.run(&["run", "hello.yaml", "--data-dir", "data"]).expect(0);
    let create = ["key", "create", "--name", "me", "--scope", "admin", "--data-dir", "data"];
    let key = bench.run(&create).expect(0).stdout;
    let id = key.trim().strip_prefix("fmk_").unwrap().split_once('_').unwrap().0;
    bench.run(&["key", "revoke", id, "--data-dir", "data"]).expect(0);
    let listed = bench.run(&["key", "list", "--data-dir", "data", "-o", "json"]).expect(0).json();
    assert_eq!((&listed["items"][0]["id"], &listed["items"][0]["state"]), (&json!(id), &json!("revoked")));
    for wrong in [
        &["key", "create", "--name", "x", "--scope", "root", "--data-dir", "data"][..],
        &["key", "create", "--name", "x", "--scope", "viewer", "--expires", "soon"],
        &["key", "list", "--data-dir", "data", "--token-file", "hello.yaml"],
    ] {
        assert_ne!(bench.run(wrong).code, 0, "{wrong:?}");
    }
}
