//! Shell completions and man pages, made from the arguments.

use std::path::Path;

use clap::{Command, CommandFactory};

use crate::app::App;
use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::exit::{Failure, Outcome};

/// Prints completions for a shell.
pub(crate) fn completions(app: &mut App, args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "busline", &mut script);
    app.out.raw(&script)?;
    Ok(app.out.flush()?)
}

/// Prints one man page, or writes all of them.
pub(crate) fn man(app: &mut App, args: &ManArgs) -> Outcome {
    let mut root = Cli::command();
    root.build();
    if let Some(directory) = &args.dir {
        return write_all(&root, directory);
    }
    let mut command = &root;
    for verb in &args.verb {
        let found = command.get_subcommands().find(|sub| sub.get_name() == verb);
        command = found.ok_or_else(|| {
            Failure::usage(format!("there is no verb '{verb}'; busline --help lists them"))
        })?;
    }
    app.out.raw(&page(command)?)?;
    Ok(app.out.flush()?)
}

fn write_all(command: &Command, directory: &Path) -> Outcome {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = directory.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?).map_err(|error| Failure::file(&path, &error))?;
    let verbs = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    verbs.filter(|sub| sub.get_name() != "help").try_for_each(|sub| write_all(sub, directory))
}

fn page(command: &Command) -> Outcome<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}
