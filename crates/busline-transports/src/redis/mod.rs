//! Redis. So far the temporary store of services, as the Python library eventail keeps it.
//!
//! | here | there |
//! |---|---|
//! | a key of a namespace | the two, one after the other |
//! | the lock of a key | the key `KEY_lock`, without the namespace, with a token that nobody else has |
//!
//! `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, `rediss://…` with TLS, and
//! `redis+sentinel://[[USER]:PASSWORD@]HOST:PORT,HOST:PORT…/SERVICE[/DATABASE]`.

mod server;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use busline_core::store::{StoreBackend, StoreLock};
use busline_core::{Clock, Result};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::Cmd;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::url::BusUrl;
use server::{Repeat, Server};

/// How long a lock outlives a process that was killed; whoever lives renews it.
const LOCK_TTL: Duration = Duration::from_secs(10);
const LOCK_RENEW: Duration = Duration::from_secs(3);
/// How often a held lock is looked at, as on the Python side.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// No value stays longer; Redis refuses what does not fit its clock.
const TTL_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

// Scripts and not transactions: the client ends with a panic when a command of a transaction is refused. They go
// from key to key, because `unpack` takes some thousands at most.
const PUT: &str = "\
for at = 1, #KEYS do redis.call('SET', KEYS[at], ARGV[at + 1], 'PX', ARGV[1]) end";
const TAKE: &str = "\
local values = {}
for at = 1, #KEYS do
  values[at] = redis.call('GET', KEYS[at])
  if not values[at] then return false end
end
for at = 1, #KEYS do redis.call('DEL', KEYS[at]) end
return values";
const RENEW: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0";
const RELEASE: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// Temporary values in a Redis server.
#[derive(Debug, Clone)]
pub struct RedisStore {
    server: Arc<Server>,
}

/// The store of a URL; connects when it is used.
pub(crate) fn open(url: BusUrl, clock: Arc<dyn Clock>) -> Result<Arc<dyn StoreBackend>> {
    Ok(Arc::new(RedisStore { server: Arc::new(Server::new(url, clock)?) }))
}

impl StoreBackend for RedisStore {
    fn put<'a>(
        &'a self,
        namespace: &'a str,
        entries: Vec<(String, Bytes)>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<()>> {
        let keys = entries.iter().map(|(key, _)| format!("{namespace}{key}"));
        let mut put = script(PUT, &keys.collect::<Vec<_>>());
        put.arg(millis(ttl));
        for (_, value) in &entries {
            put.arg(&value[..]);
        }
        // Somebody may have taken the value before it is put again: then two would get it.
        Box::pin(async move { self.server.run(&put, Repeat::Never).await })
    }

    fn get<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(async move {
            let mut get = redis::cmd("GET");
            get.arg(format!("{namespace}{key}"));
            self.server.run(&get, Repeat::Once).await
        })
    }

    fn take<'a>(
        &'a self,
        namespace: &'a str,
        keys: Vec<String>,
    ) -> BoxFuture<'a, Result<Option<Vec<Bytes>>>> {
        Box::pin(async move {
            if keys.is_empty() {
                return Ok(Some(Vec::new()));
            }
            let keys: Vec<_> = keys.iter().map(|key| format!("{namespace}{key}")).collect();
            // What it takes would be lost with an answer that gets lost: it is never sent twice.
            self.server.run(&script(TAKE, &keys), Repeat::Never).await
        })
    }

    fn lock<'a>(&'a self, _: &'a str, key: &'a str) -> BoxFuture<'a, Result<StoreLock>> {
        Box::pin(async move {
            let (key, token) = (format!("{key}_lock"), Uuid::new_v4().simple().to_string());
            let mut set = redis::cmd("SET");
            set.arg(&key).arg(&token).arg("NX").arg("PX").arg(millis(LOCK_TTL));
            loop {
                let answer: Option<String> = self.server.run(&set, Repeat::Once).await?;
                if answer.is_some() {
                    break;
                }
                self.server.clock.sleep(LOCK_POLL).await;
            }
            let (held, dropped) = oneshot::channel::<()>();
            tokio::spawn(hold(Arc::clone(&self.server), key, token, dropped));
            Ok(StoreLock::new(held))
        })
    }
}

/// Keeps a lock until it is dropped, then gives it back.
async fn hold(server: Arc<Server>, key: String, token: String, mut dropped: oneshot::Receiver<()>) {
    let keys = [key];
    let mut renew = script(RENEW, &keys);
    renew.arg(&token).arg(millis(LOCK_TTL));
    loop {
        tokio::select! {
            _ = &mut dropped => break,
            () = server.clock.sleep(LOCK_RENEW) => match server.run(&renew, Repeat::Once).await {
                Ok(1) => {}
                Ok(_) => {
                    let key = &keys[0];
                    tracing::warn!(%server, key, "a lock of the store was lost to somebody else");
                    return;
                }
                Err(error) => tracing::warn!(%server, %error, "a lock of the store was not renewed"),
            },
        }
    }
    let mut release = script(RELEASE, &keys);
    release.arg(&token);
    if let Err(error) = server.run::<i64>(&release, Repeat::Once).await {
        tracing::warn!(%server, %error, "a lock of the store stays until it expires");
    }
}

fn script(text: &str, keys: &[String]) -> Cmd {
    let mut eval = redis::cmd("EVAL");
    eval.arg(text).arg(keys.len()).arg(keys);
    eval
}

/// At least one: less is refused by Redis.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.min(TTL_MAX).as_millis()).map_or(u64::MAX, |ms| ms.max(1))
}

impl fmt::Display for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}
