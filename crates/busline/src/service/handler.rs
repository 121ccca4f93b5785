//! Handlers: plain async functions whose arguments are taken out of the message.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use busline_core::Result;
use futures_util::future::BoxFuture;

use super::extract::FromRequest;
use super::fault::BoxError;
use super::request::{Environment, Request};
use super::respond::{IntoResponse, Response};

/// An async function that handles messages of the kind `K` ([`kind`](super::kind)).
///
/// It is implemented for functions and closures of up to ten arguments that implement
/// [`FromRequest`], and whose result suits the kind:
///
/// | kind | result |
/// |---|---|
/// | event, result | `()` or `Result<(), E>` |
/// | command | `Result<T, E>` where `T` can be serialized, or `()` |
/// | configuration | `bool`, whether the service is configured now, or `Result<bool, E>` |
///
/// `E` is [`Fault`](super::Fault) or any error. `Args` is of no use to anybody but the compiler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler of a message of the kind `{K}`",
    note = "a handler is an `async fn` of at most ten arguments, each an extractor as `Payload<T>`, `Context` or `State<T>`",
    note = "events and results give `()` or `Result<(), E>`, commands `Result<T, E>`, configurations `bool` or `Result<bool, E>`"
)]
pub trait Handler<K, Args>: Clone + Send + Sync + 'static {
    /// Handles one message.
    fn call(self, request: Request) -> BoxFuture<'static, Result<Response, BoxError>>;

    /// Fails when an argument can never be had, as a state that nobody gave.
    fn check(environment: &Environment) -> Result<()>;
}

/// A handler without its types.
pub(crate) trait Erased: Send + Sync {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Response, BoxError>>;
    fn check(&self, environment: &Environment) -> Result<()>;
}

/// Forgets the types of a handler.
pub(crate) fn erase<K, A, H>(handler: H) -> Arc<dyn Erased>
where
    H: Handler<K, A>,
    K: 'static,
    A: 'static,
{
    Arc::new(Typed { handler, types: std::marker::PhantomData::<fn() -> (K, A)> })
}

struct Typed<H, K, A> {
    handler: H,
    types: std::marker::PhantomData<fn() -> (K, A)>,
}

impl<K: 'static, A: 'static, H: Handler<K, A>> Erased for Typed<H, K, A> {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Response, BoxError>> {
        self.handler.clone().call(request)
    }

    fn check(&self, environment: &Environment) -> Result<()> {
        H::check(environment)
    }
}

macro_rules! handlers {
    ($(($($arg:ident),*),)*) => {$(
        #[allow(non_snake_case, unused_mut, unused_variables, reason = "one macro for all counts of arguments")]
        impl<F, Fut, Out, K, $($arg,)*> Handler<K, ($($arg,)*)> for F
        where
            F: FnOnce($($arg,)*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Out> + Send,
            Out: IntoResponse<K>,
            $($arg: FromRequest + Send,)*
        {
            fn call(self, mut request: Request) -> BoxFuture<'static, Result<Response, BoxError>> {
                // In the future and not before it, so that an extractor that panics is contained too.
                let handling = async move {
                    $(
                        let $arg = match $arg::from_request(&mut request) {
                            Ok(argument) => argument,
                            Err(rejection) => return rejection.into_response(&request),
                        };
                    )*
                    request.begin();
                    let out = self($($arg,)*).await;
                    out.into_response(&request)
                };
                let handling: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(handling);
                handling
            }

            fn check(environment: &Environment) -> Result<()> {
                $($arg::check(environment)?;)*
                Ok(())
            }
        }
    )*};
}

handlers! {
    (),
    (A1),
    (A1, A2),
    (A1, A2, A3),
    (A1, A2, A3, A4),
    (A1, A2, A3, A4, A5),
    (A1, A2, A3, A4, A5, A6),
    (A1, A2, A3, A4, A5, A6, A7),
    (A1, A2, A3, A4, A5, A6, A7, A8),
    (A1, A2, A3, A4, A5, A6, A7, A8, A9),
    (A1, A2, A3, A4, A5, A6, A7, A8, A9, A10),
}
