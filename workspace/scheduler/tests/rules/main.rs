//! The rules of the scheduler, one test each. SENTENCES.md says which sentence of its model each one keeps.

mod balance;
mod delays;
mod drain;
mod families;
mod flow;
mod governor;
mod leaving;
mod minimise;
mod order;
mod processes;
mod switch;
mod times;
