//! What workers accept themselves, as far as the primary has a part in it.

use super::Dispatch;

impl Dispatch {
    /// Whether some worker accepts at this listener, so that this process does not.
    pub(crate) fn is_shared(&self, listener: u16) -> bool {
        // Without sharing a connection costs the same whatever the number of workers.
        self.shares
            && self
                .intakes
                .values()
                .any(|intake| !intake.retired && intake.accepts.contains(&listener))
    }

    /// How many connections the workers have accepted, if one of them should be accepting now: not where all are full or busy, and
    /// clients are right to wait.
    pub(crate) fn accepted(&self) -> Option<u64> {
        if !self.shares {
            return None;
        }
        let (mut sum, mut open) = (0_u64, false);
        for intake in self.intakes.values() {
            sum = sum.wrapping_add(intake.row.accepted());
            open |= !intake.retired && !intake.accepts.is_empty() && !intake.row.is_shut();
        }
        open.then_some(sum)
    }
}
