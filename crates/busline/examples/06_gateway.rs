//! A gateway: `POST /SERVICE/COMMAND` calls that command and answers with its result.
//!
//! The body is JSON, and empty is null. 200 has the payload of a success, 422 that of an error; 404 says
//! that no service takes the command, 504 that it was not answered in time (and nobody knows whether it
//! is done), 503 that the gateway is not ready. `X-Conversation-Id` goes both ways.

#![allow(clippy::print_stderr, reason = "an example says why it does not start")]

mod support;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use busline::service::wire::{Body, Format, Value};
use busline::service::{App, CallError, Context};
use busline::{ErrorKind, new_message_id};
use clap::Parser;
use serde_json::{Value as Json, json};
use support::{Common, Signals, line, shown};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Calls commands for clients that speak HTTP.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Where it listens; port 0 is any that is free, and the line `ready` says which.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How long a result is waited for.
    #[arg(long, value_name = "S", default_value_t = 30.0)]
    timeout: f64,
    /// Write payloads as JSON instead of CBOR.
    #[arg(long)]
    json: bool,
}

/// The most bytes of a body.
const BODY_BYTES_MAX: usize = 8 << 20;

const CONVERSATION: HeaderName = HeaderName::from_static("x-conversation-id");

#[tokio::main]
async fn main() -> ExitCode {
    let signals = Signals::listen();
    let arguments = Arguments::parse();
    let Ok(timeout) = Duration::try_from_secs_f64(arguments.timeout) else {
        use clap::CommandFactory;
        let mut command = Arguments::command();
        command.error(clap::error::ErrorKind::InvalidValue, "--timeout is no time").exit();
    };
    let bound = TcpListener::bind(arguments.listen).await;
    let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = match bound {
        Ok(bound) => bound,
        Err(error) => {
            eprintln!("error: {} cannot be listened to: {error}", arguments.listen);
            return ExitCode::FAILURE;
        }
    };
    let (ready, context) = watch::channel(None);
    let (stop, stopping) = watch::channel(false);
    let gateway = Router::new()
        .route("/{service}/{command}", post(call))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Gateway { context, timeout });
    let serving = axum::serve(listener, gateway).with_graceful_shutdown(async move {
        let _ = stopping.clone().wait_for(|stop| *stop).await;
    });
    let serving = tokio::spawn(serving.into_future());
    let mut app = App::new(arguments.common.name("gateway")).on_ready(move |context: Context| {
        ready.send_replace(Some(context));
        line(&json!({"kind": "ready", "address": address.to_string()}));
        std::future::ready(())
    });
    if arguments.json {
        app = app.json();
    }
    // Who is being answered gets an answer, then the service stops.
    let drained = async move {
        stop.send_replace(true);
        let _ = tokio::time::timeout(timeout + Duration::from_secs(1), serving).await;
    };
    arguments.common.run_until(app, signals, drained).await
}

/// What every request has at hand.
#[derive(Debug, Clone)]
struct Gateway {
    /// None before the service is ready.
    context: watch::Receiver<Option<Context>>,
    timeout: Duration,
}

async fn call(
    State(gateway): State<Gateway>,
    Path((service, command)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let key = format!("{service}.{command}");
    let given = headers.get(&CONVERSATION).and_then(|id| id.to_str().ok());
    let conversation = given.map_or_else(|| new_message_id().to_string(), str::to_owned);
    let (status, payload) = answer(&gateway, &key, &conversation, body).await;
    line(&json!({
        "kind": "request",
        "command": key,
        "status": status.as_u16(),
        "conversation_id": conversation,
    }));
    let headers = [(CONVERSATION, conversation)];
    (status, headers, axum::Json(payload)).into_response()
}

async fn answer(
    gateway: &Gateway,
    key: &str,
    conversation: &str,
    body: Bytes,
) -> (StatusCode, Json) {
    let says = |status, text: String| (status, json!({"error": text}));
    // Given on as it came, whatever its numbers are; nothing is null.
    let request = match Body::new(Format::Json, body) {
        Ok(request) => request,
        Err(error) => {
            return says(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}"));
        }
    };
    let Some(context) = gateway.context.borrow().clone() else {
        return says(StatusCode::SERVICE_UNAVAILABLE, "the gateway is not ready".to_owned());
    };
    let context = context.in_conversation(conversation);
    let failed = match context.call::<_, Value>(key, &request, gateway.timeout).await {
        Ok(payload) => return (StatusCode::OK, shown(&payload)),
        Err(failed) => failed,
    };
    let status = match &failed {
        CallError::Fault(fault) => {
            let payload = fault.payload::<Value>().map_or(Json::Null, |payload| shown(&payload));
            return (StatusCode::UNPROCESSABLE_ENTITY, payload);
        }
        CallError::Unroutable => StatusCode::NOT_FOUND,
        CallError::Elapsed(_) => StatusCode::GATEWAY_TIMEOUT,
        CallError::Failed(error) if error.kind() == ErrorKind::Limit => StatusCode::BAD_REQUEST,
        CallError::Failed(error) if error.is_temporary() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    says(status, failed.to_string())
}
