//! Somebody who is told of an event where and when it happens, and whom it waits for.

use std::fmt;
use std::sync::Arc;

/// A function that is called with each event, in the thread of the event. It should not take long.
pub struct Witness<T: ?Sized>(Arc<dyn Fn(&T) + Send + Sync>);

impl<T: ?Sized> Witness<T> {
    /// A witness that does this.
    pub fn new(told: impl Fn(&T) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    /// Tells it.
    pub fn tell(&self, event: &T) {
        (self.0)(event);
    }
}

impl<T: ?Sized> Clone for Witness<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> fmt::Debug for Witness<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}
