//! The services of the examples as a stranger starts them: the same tests on files and on a broker, by URL alone.

mod echo;
mod gateway;
mod others;
mod people;
mod signals;
mod stage;
