//! A service in a few lines: it takes an event, answers a command, and is called.

use std::time::Duration;

use busline::Bus;
use busline::service::{App, Context, Fault, Payload};

async fn user_created(Payload(name): Payload<String>, context: Context) -> Result<(), Fault> {
    context.event("WelcomeSent", &name).await?;
    Ok(())
}

async fn reverse(Payload(text): Payload<String>) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault::new("there is nothing to reverse"));
    }
    Ok(text.chars().rev().collect())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> busline::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned());
    let app = App::new("greeter")
        .event("UserCreated", user_created)
        .command("Reverse", reverse)
        .on_ready(async |context: Context| -> Result<(), Fault> {
            let timeout = Duration::from_secs(5);
            context.after(Duration::ZERO, move |context| async move {
                let answer = context.call::<_, String>("greeter.Reverse", "olleh", timeout).await;
                assert_eq!(answer.expect("it answers"), "hello");
                context.stopper().stop();
            });
            Ok(())
        });
    app.run(Bus::open(&url).await?).await
}
