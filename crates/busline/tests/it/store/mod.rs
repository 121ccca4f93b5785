//! The temporary store, on everything that keeps it.

mod children;
mod python;
mod server;
mod suite;

use std::sync::Arc;
use std::time::Duration;

use busline::store::TemporaryStore;
use busline::{Clock, ErrorKind, ManualClock, Timestamp};

use server::RedisServer;
use suite::suite;

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_unix_us(1_700_000_000_000_000))
}

/// Time passes for what expires.
async fn expiry(url: &str) {
    let clock = clock();
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let store = TemporaryStore::open_with_clock(url, "orders:", shared).await.unwrap();
    let store = store.ttl(Duration::ZERO).ttl(Duration::from_secs(100));
    store.set("long", &1).await.unwrap();
    store.set_for("also long", &2, Duration::ZERO).await.unwrap();
    store.set_for("short", &3, Duration::from_secs(10)).await.unwrap();
    clock.advance(Duration::from_secs(9));
    assert_eq!(store.peek("short").await.unwrap(), Some(3), "looking at it does not keep it");
    clock.advance(Duration::from_secs(1));
    assert_eq!(store.peek::<i32>("short").await.unwrap(), None);
    assert_eq!(store.pop_all::<i32>(&["long", "short"]).await.unwrap(), None);
    clock.advance(Duration::from_secs(89));
    assert_eq!(store.pop_all(&["also long", "long"]).await.unwrap(), Some(vec![2, 1]));
    store.set_all_for([("a", 1), ("b", 2)], Duration::from_secs(1)).await.unwrap();
    clock.advance(Duration::from_secs(1));
    assert_eq!(store.pop::<i32>("a").await.unwrap(), None);
    store.set_for("for ever", &4, Duration::MAX).await.unwrap();
    assert_eq!(store.peek("for ever").await.unwrap(), Some(4));
}

#[tokio::test]
async fn in_memory() {
    suite("memory:store-suite", "memory:store-suite").await;
    expiry("memory:").await;
    let one = TemporaryStore::open("memory:", "").await.unwrap();
    one.set("key", &1).await.unwrap();
    let other = TemporaryStore::open("memory:", "").await.unwrap();
    assert_eq!(other.peek::<i32>("key").await.unwrap(), None, "it is another one");
}

#[tokio::test]
async fn in_the_directory_of_a_bus() {
    let directory = tempfile::tempdir().unwrap();
    let bus = |name: &str| format!("file:{}", directory.path().join(name).display());
    let url = bus("suite");
    suite(&url, &format!("{url}?sync=os")).await;
    expiry(&bus("expiry")).await;
    // It is a bus, too.
    let opened = busline::Bus::open(&url).await.unwrap();
    opened.publisher("topic").await.unwrap();
    opened.close(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn in_a_bus_that_was_there_before_and_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file:{}", directory.path().join("bus").display());
    let bus = busline::Bus::open(&url).await.unwrap();
    let store = TemporaryStore::open(&url, "n").await.unwrap();
    store.set("key", &1).await.unwrap();
    bus.publisher("topic").await.unwrap();
    bus.close(Duration::from_secs(5)).await.unwrap();
    std::fs::write(directory.path().join("diary.txt"), "dear diary").unwrap();
    let wrong = TemporaryStore::open(&format!("file:{}", directory.path().display()), "n").await;
    let wrong = wrong.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Conflict, "{wrong}");
    assert!(!directory.path().join("store").exists());
}

#[tokio::test]
async fn what_is_expired_is_removed_from_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let files = || walk(directory.path()).into_iter().filter(|name| name.contains("v-")).count();
    let clock = clock();
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let url = format!("file:{}", directory.path().display());
    let store = TemporaryStore::open_with_clock(&url, "n", shared).await.unwrap();
    for n in 0..50 {
        store.set_for(&format!("key {n}"), &n, Duration::from_secs(30)).await.unwrap();
    }
    store.set("kept", &1).await.unwrap();
    assert_eq!(files(), 51);
    clock.advance(Duration::from_secs(120));
    store.set("new", &1).await.unwrap();
    assert_eq!(files(), 2, "{:?}", walk(directory.path()));
    assert_eq!(store.pop_all::<i32>(&["kept", "new"]).await.unwrap(), Some(vec![1, 1]));
    assert_eq!(files(), 0);
}

fn walk(directory: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path().display().to_string()),
        }
    }
    found
}

#[tokio::test]
async fn a_damaged_value_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file:{}", directory.path().display());
    let store = TemporaryStore::open(&url, "n").await.unwrap();
    store.set("key", "value").await.unwrap();
    let file = walk(directory.path()).into_iter().find(|name| name.contains("v-")).unwrap();
    let whole = std::fs::read(&file).unwrap();
    for damage in [&whole[..10], &vec![0; whole.len()], b""] {
        std::fs::write(&file, damage).unwrap();
        assert_eq!(store.peek::<String>("key").await.unwrap(), None);
        assert_eq!(store.pop::<String>("key").await.unwrap(), None);
    }
    store.set("key", "again").await.unwrap();
    assert_eq!(store.pop::<String>("key").await.unwrap().as_deref(), Some("again"));
}

#[tokio::test]
async fn in_redis() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let url = format!("redis://127.0.0.1:{}/3", server.port);
    suite(&url, &url).await;
}

#[tokio::test]
async fn redis_says_what_is_wrong() {
    let Some(server) = RedisServer::start(&["--requirepass", "s3cret"]) else { return };
    let open = async |user: &str, rest: &str| {
        let url = format!("redis://{user}127.0.0.1:{}{rest}", server.port);
        TemporaryStore::open(&url, "n").await
    };
    open(":s3cret@", "").await.unwrap();
    let wrong = open(":s3cr3t@", "").await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Unauthorized, "{wrong}");
    assert!(!format!("{wrong} {wrong:?}").contains("s3cr3t"), "{wrong}");
    let none = open("", "").await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Unauthorized, "{none}");
    assert_eq!(open(":s3cret@", "/x").await.unwrap_err().kind(), ErrorKind::Limit);
    let few = ["ACL", "SETUSER", "few", "on", ">s3cret", "~*", "+get", "+select", "+client"];
    server.command("s3cret", &few);
    let denied = open("few:s3cret@", "").await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Unauthorized, "{denied}");
    assert!(denied.to_string().contains("the store needs "), "{denied}");
    let option = open(":s3cret@", "/0?namespace=n").await.unwrap_err();
    assert!(option.to_string().contains("has no option 'namespace'"), "{option}");
    let store = open(":s3cret@", "").await.unwrap();
    drop(server);
    let gone = store.set("key", &1).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Disconnected, "{gone}");
    assert!(!format!("{gone:?} {store:?}").contains("s3cret"), "{gone:?} {store:?}");
}

#[tokio::test]
async fn redis_may_be_restarted_meanwhile() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let port = server.port;
    let store = TemporaryStore::open(&format!("redis://127.0.0.1:{port}"), "n:").await.unwrap();
    store.set("key", &1).await.unwrap();
    drop(server);
    assert!(store.peek::<i32>("key").await.is_err());
    let _server = RedisServer::start_at(port, &[]).unwrap();
    assert_eq!(store.pop::<i32>("key").await.unwrap(), None, "it kept nothing");
    store.set("key", &2).await.unwrap();
    assert_eq!(store.pop("key").await.unwrap(), Some(2));
}

#[tokio::test]
async fn sentinels_name_the_next_primary() {
    let Some(primary) = RedisServer::start(&[]) else { return };
    let port = primary.port.to_string();
    let _replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]).unwrap();
    let mut sentinel = RedisServer::sentinel("orders", primary.port);
    let url = |service: &str| format!("redis+sentinel://127.0.0.1:{}/{service}/0", sentinel.port);
    let wrong = TemporaryStore::open(&url("nobody"), "n:").await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::NotFound, "{wrong}");
    let store = TemporaryStore::open(&url("orders"), "n:").await.unwrap();
    store.set("key", &1).await.unwrap();
    assert_eq!(store.pop("key").await.unwrap(), Some(1));
    sentinel.said("+slave slave");
    drop(primary);
    sentinel.said("+switch-master orders");
    store.set("key", &2).await.unwrap();
    assert_eq!(store.pop("key").await.unwrap(), Some(2));
}

#[tokio::test]
async fn addresses_are_looked_over() {
    for (url, part) in [
        ("kafka://localhost", "no store for the scheme 'kafka:'"),
        ("memory:?sync=os", "has no option 'sync'"),
        ("redis+sentinel://localhost:26379", "the service is missing after the hosts"),
        ("redis+sentinel://localhost:x/orders", "a sentinel is not HOST:PORT"),
        ("redis+sentinel://localhost:1/orders/x", "the database is no number"),
    ] {
        let error = TemporaryStore::open(url, "n").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}
