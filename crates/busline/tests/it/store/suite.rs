//! What every store does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use busline::store::TemporaryStore;
use busline::{Error, ErrorKind};

/// Runs it all; both URLs are the same store.
pub(super) async fn suite(url: &str, same: &str) {
    let one = TemporaryStore::open(url, "one:").await.unwrap();
    let other = TemporaryStore::open(same, "one:").await.unwrap();
    values(&one, &other).await;
    several(&one, &other).await;
    namespaces(url).await;
    types(&one).await;
    taken_once(&one, &other).await;
    made_once(&one, &other).await;
    made_by_the_next(&one).await;
}

async fn values(one: &TemporaryStore, other: &TemporaryStore) {
    assert_eq!(one.peek::<u8>("key").await.unwrap(), None);
    one.set("key", &1).await.unwrap();
    other.set("key", "replaced").await.unwrap();
    assert_eq!(one.peek::<String>("key").await.unwrap().as_deref(), Some("replaced"));
    assert_eq!(one.pop::<String>("key").await.unwrap().as_deref(), Some("replaced"));
    assert_eq!(other.pop::<String>("key").await.unwrap(), None);
    let map: BTreeMap<String, Vec<f64>> = [("ü".to_owned(), vec![0.5, -1e300])].into();
    // Whatever the key is, and however long.
    for key in ["", "../../etc/passwd", "a b\n\0ü", "key_lock", &"long".repeat(200)] {
        one.set(key, &map).await.unwrap();
        assert_eq!(other.pop::<BTreeMap<String, Vec<f64>>>(key).await.unwrap().unwrap(), map);
    }
    one.set("null", &()).await.unwrap();
    assert_eq!(one.peek::<u8>("null").await.unwrap(), None);
    assert_eq!(one.pop::<u8>("null").await.unwrap(), None);
    let large = "x".repeat(1 << 20);
    one.set("large", &large).await.unwrap();
    assert_eq!(other.pop::<String>("large").await.unwrap(), Some(large));
    one.check().await.unwrap();
}

async fn several(one: &TemporaryStore, other: &TemporaryStore) {
    one.set_all([("a", 1), ("b", 2), ("c", 3), ("b", 4)]).await.unwrap();
    assert_eq!(other.pop_all::<i32>(&["a", "missing", "b"]).await.unwrap(), None);
    assert_eq!(other.pop_all(&["c", "a", "b"]).await.unwrap(), Some(vec![3, 1, 4]));
    assert_eq!(one.pop_all::<i32>(&["a"]).await.unwrap(), None);
    one.set_all(Vec::<(String, i32)>::new()).await.unwrap();
    assert_eq!(one.pop_all::<i32>(&[]).await.unwrap(), Some(Vec::new()));
    let keys: Vec<String> = (0..2_000).map(|n| n.to_string()).collect();
    one.set_all(keys.iter().zip(0..)).await.unwrap();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(other.pop_all(&keys).await.unwrap(), Some((0..2_000).collect::<Vec<i32>>()));
    one.set("twice", &7).await.unwrap();
    assert_eq!(one.pop_all(&["twice", "twice"]).await.unwrap(), Some(vec![7, 7]));
    assert_eq!(one.peek::<i32>("twice").await.unwrap(), None);
}

async fn namespaces(url: &str) {
    let first = TemporaryStore::open(url, "first:").await.unwrap();
    let second = TemporaryStore::open(url, "second:").await.unwrap();
    first.set("key", &1).await.unwrap();
    assert_eq!(second.peek::<i32>("key").await.unwrap(), None);
    second.set("key", &2).await.unwrap();
    assert_eq!(first.pop("key").await.unwrap(), Some(1));
    assert_eq!(second.pop("key").await.unwrap(), Some(2));
}

async fn types(store: &TemporaryStore) {
    store.set("key", "text").await.unwrap();
    let error = store.peek::<u8>("key").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("key: key"), "{error}");
    store.pop::<String>("key").await.unwrap();
}

async fn taken_once(one: &TemporaryStore, other: &TemporaryStore) {
    const VALUES: usize = 40;
    one.set_all((0..VALUES).map(|n| (n.to_string(), n))).await.unwrap();
    let takers = (0..6).map(|taker| {
        let store = if taker % 2 == 0 { one.clone() } else { other.clone() };
        tokio::spawn(async move {
            let mut taken = Vec::new();
            for n in 0..VALUES {
                taken.extend(store.pop::<usize>(&n.to_string()).await.unwrap());
            }
            taken
        })
    });
    let mut taken = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        taken.extend(taker.await.unwrap());
    }
    taken.sort_unstable();
    assert_eq!(taken, (0..VALUES).collect::<Vec<_>>());
}

async fn made_once(one: &TemporaryStore, other: &TemporaryStore) {
    let made = Arc::new(AtomicUsize::new(0));
    let askers = (0..6).map(|asker| {
        let store = if asker % 2 == 0 { one.clone() } else { other.clone() };
        let made = Arc::clone(&made);
        tokio::spawn(async move {
            let make = async || {
                // The others have every opportunity to come in between.
                tokio::task::yield_now().await;
                Ok::<_, Error>(made.fetch_add(1, Ordering::SeqCst) + 100)
            };
            store.peek_or_create("made", make).await.unwrap()
        })
    });
    for asker in askers.collect::<Vec<_>>() {
        assert_eq!(asker.await.unwrap(), 100);
    }
    assert_eq!(made.load(Ordering::SeqCst), 1);
    one.pop::<usize>("made").await.unwrap();
}

async fn made_by_the_next(store: &TemporaryStore) {
    let failed = store.peek_or_create("next", async || {
        Err::<i32, Error>(Error::new(ErrorKind::Other, "no luck"))
    });
    assert!(failed.await.unwrap_err().to_string().contains("no luck"));
    // One that is dropped while it makes the value, and one that waits for it.
    let (started, starts) = tokio::sync::oneshot::channel();
    let dropped = {
        let store = store.clone();
        tokio::spawn(async move {
            let never = async || {
                let _ = started.send(());
                std::future::pending::<Result<i32, Error>>().await
            };
            store.peek_or_create("next", never).await
        })
    };
    starts.await.unwrap();
    let waits = {
        let store = store.clone();
        tokio::spawn(async move { store.peek_or_create("next", async || Ok::<_, Error>(7)).await })
    };
    // Other keys are not waited for.
    assert_eq!(store.peek_or_create("else", async || Ok::<_, Error>(8)).await.unwrap(), 8);
    assert!(!waits.is_finished());
    dropped.abort();
    assert_eq!(waits.await.unwrap().unwrap(), 7);
    assert_eq!(store.pop_all(&["next", "else"]).await.unwrap(), Some(vec![7, 8]));
}
