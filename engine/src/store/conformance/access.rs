//! Keys and the audit: what is listed, what changes, and that the chain has one end.

use super::fixture::at;
use crate::access::Scope;
use crate::store::Store;
use crate::store::access::{ApiKey, ApiKeyFilter, AuditEntry, AuditFilter, AuditRow, AuditSeal};

fn key(id: &str, tenant: Option<&str>, millis: i64) -> ApiKey {
    ApiKey {
        id: id.into(),
        name: "ci".into(),
        hash: "ab".repeat(32),
        scopes: vec![Scope::Operator, Scope::Deployer],
        tenant: tenant.map(Into::into),
        created_at: at(millis),
        expires_at: Some(at(1000)),
        revoked_at: None,
        last_used_at: None,
    }
}

pub(super) async fn keys_are_kept_without_secrets_and_taken_back_once(store: &dyn Store) {
    let one = key("k1", Some("acme"), 1);
    store.put_key(&one).await.unwrap();
    store.put_key(&ApiKey { scopes: vec![Scope::Admin], ..one.clone() }).await.unwrap();
    assert_eq!(store.api_key("k1").await.unwrap(), Some(one.clone()), "a key does not change");
    assert_eq!(store.api_key("k2").await.unwrap(), None);
    let bare = ApiKey { scopes: Vec::new(), tenant: None, expires_at: None, ..key("k0", None, 2) };
    store.put_key(&bare).await.unwrap();
    assert_eq!(store.api_key("k0").await.unwrap(), Some(bare));
    for instant in [5, 9, 7] {
        store.touch_key("k1", at(instant)).await.unwrap();
    }
    store.touch_key("k2", at(1)).await.unwrap();
    assert!(store.revoke_key("k1", at(20)).await.unwrap());
    assert!(store.revoke_key("k1", at(30)).await.unwrap());
    assert!(!store.revoke_key("k2", at(30)).await.unwrap());
    let expected = ApiKey { revoked_at: Some(at(20)), last_used_at: Some(at(9)), ..one };
    assert_eq!(store.api_key("k1").await.unwrap(), Some(expected));
}

pub(super) async fn keys_are_listed_newest_first(store: &dyn Store) {
    for (id, tenant, millis) in
        [("b", None, 1), ("a", Some("acme"), 2), ("c", Some("acme"), 2), ("d", Some("other"), 3)]
    {
        store.put_key(&key(id, tenant, millis)).await.unwrap();
    }
    let list = |tenant: Option<&str>, before: Option<(i64, &str)>, max: usize| {
        let filter = ApiKeyFilter {
            tenant: tenant.map(Into::into),
            before: before.map(|(millis, id)| (at(millis), id.into())),
            max,
        };
        async move {
            let keys = store.api_keys(&filter).await.unwrap();
            keys.into_iter().map(|key| key.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(list(None, None, 10).await, ["d", "c", "a", "b"]);
    assert_eq!(list(None, None, 2).await, ["d", "c"]);
    assert_eq!(list(None, Some((2, "c")), 2).await, ["a", "b"]);
    assert_eq!(list(Some("acme"), None, 10).await, ["c", "a"]);
    assert_eq!(list(Some("nobody"), None, 10).await, [""; 0]);
}

fn entry(id: &str, tenant: Option<&str>) -> AuditEntry {
    AuditEntry {
        id: id.into(),
        at: at(7),
        actor: "key:k1".into(),
        tenant: tenant.map(Into::into),
        method: "POST".into(),
        route: "/v1/executions/{target}".into(),
        target: "/v1/executions/x:pause".into(),
        status: 200,
        request_id: format!("rq_{id}"),
    }
}

fn ids(rows: &[AuditRow]) -> Vec<&str> {
    rows.iter().map(|row| row.entry.id.as_str()).collect()
}

pub(super) async fn the_audit_keeps_its_order_and_counts_once(store: &dyn Store) {
    store.append_audit(&[]).await.unwrap();
    let first = [entry("b", None), entry("a", Some("acme")), entry("c", Some("other"))];
    store.append_audit(&first).await.unwrap();
    store.append_audit(&[entry("a", None), entry("d", Some("acme"))]).await.unwrap();
    let list = |tenant: Option<&str>, before: i64, max: usize| {
        let filter = AuditFilter { tenant: tenant.map(Into::into), before, max };
        async move { store.audit(&filter).await.unwrap() }
    };
    let all = list(None, i64::MAX, 10).await;
    assert_eq!(ids(&all), ["d", "c", "a", "b"]);
    assert_eq!(all[2].entry, first[1], "what was appended first stays");
    assert_eq!(all[0].seal, None);
    let page = list(None, i64::MAX, 2).await;
    assert_eq!(ids(&list(None, page[1].sequence, 2).await), ["a", "b"]);
    assert_eq!(ids(&list(Some("acme"), i64::MAX, 10).await), ["d", "a"]);
}

pub(super) async fn the_chain_of_the_audit_grows_at_its_end_only(store: &dyn Store) {
    assert_eq!(store.audit_head().await.unwrap(), None);
    store.append_audit(&["a", "b", "c"].map(|id| entry(id, None))).await.unwrap();
    let unsealed = store.unsealed_audit(2).await.unwrap();
    assert_eq!(ids(&unsealed), ["a", "b"]);
    let seal = |row: &AuditRow, place: i64| AuditSeal {
        sequence: row.sequence,
        place,
        hash: format!("hash {place}"),
    };
    let seals = [seal(&unsealed[0], 1), seal(&unsealed[1], 2)];
    assert!(!store.seal_audit(1, &seals).await.unwrap(), "the chain does not end there");
    assert_eq!(store.audit_head().await.unwrap(), None);
    assert!(store.seal_audit(0, &seals).await.unwrap());
    assert!(!store.seal_audit(0, &seals).await.unwrap(), "another has been there");
    assert_eq!(store.audit_head().await.unwrap(), Some((2, "hash 2".into())));
    let rest = store.unsealed_audit(10).await.unwrap();
    assert_eq!(ids(&rest), ["c"]);
    assert!(store.seal_audit(2, &[seal(&rest[0], 3)]).await.unwrap());
    let chain = store.audit_chain(0, 2).await.unwrap();
    assert_eq!(ids(&chain), ["a", "b"]);
    assert_eq!(chain[1].seal, Some((2, "hash 2".into())));
    assert_eq!(ids(&store.audit_chain(2, 2).await.unwrap()), ["c"]);
    assert_eq!(store.unsealed_audit(10).await.unwrap(), []);
}
