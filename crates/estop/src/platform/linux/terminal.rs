//! The terminal of the person who types.

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// Whether standard error takes colours, if it is a terminal.
pub(crate) fn takes_colours() -> bool {
    true
}

/// A terminal that shows nothing of what is typed, until this is dropped. Ctrl-C comes as a byte meanwhile: a signal would end the
/// process and leave the terminal so.
pub(crate) struct Unseen {
    before: Option<Termios>,
}

impl Unseen {
    pub(crate) fn begin() -> Self {
        let before = tcgetattr(std::io::stdin()).ok();
        if let Some(mut changed) = before.clone() {
            changed.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
            changed.special_codes[SpecialCodeIndex::VMIN] = 1;
            changed.special_codes[SpecialCodeIndex::VTIME] = 0;
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &changed);
        }
        Self { before }
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}
