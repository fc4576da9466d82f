//! Signals by name.

use std::fmt;

macro_rules! signals {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal),* $(,)?) => {
        /// A signal, for [`WorkerHandle::kill`](crate::WorkerHandle::kill) and [`WorkerProcess::kill`](crate::WorkerProcess::kill), and in
        /// [`Exit::signal`](crate::Exit::signal).
        ///
        /// ```
        /// # use axum_cluster::Signal;
        /// assert_eq!(Signal::Term.to_string(), "SIGTERM");
        /// assert_eq!(Signal::default(), Signal::Term);
        /// ```
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Signal {
            $($(#[$doc])* $name,)*
        }

        impl Signal {
            /// Its number on Linux.
            pub const fn number(self) -> i32 {
                match self {
                    $(Self::$name => $number,)*
                }
            }

            pub(crate) fn from_number(number: i32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for Signal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)*
                })
            }
        }
    };
}

signals! {
    /// The terminal has gone.
    Hup = 1 "SIGHUP",
    /// Ctrl-C.
    Int = 2 "SIGINT",
    /// Ends with a core dump.
    Quit = 3 "SIGQUIT",
    /// An instruction that is none.
    Ill = 4 "SIGILL",
    /// A breakpoint.
    Trap = 5 "SIGTRAP",
    /// What `abort` raises; ends with a core dump.
    Abrt = 6 "SIGABRT",
    /// Memory that is not there.
    Bus = 7 "SIGBUS",
    /// A division by zero.
    Fpe = 8 "SIGFPE",
    /// Ends at once, whatever the process does.
    Kill = 9 "SIGKILL",
    /// The program's own, first.
    Usr1 = 10 "SIGUSR1",
    /// Memory that is not the process's.
    Segv = 11 "SIGSEGV",
    /// The program's own, second.
    Usr2 = 12 "SIGUSR2",
    /// Nobody reads what is written.
    Pipe = 13 "SIGPIPE",
    /// An alarm has gone off.
    Alrm = 14 "SIGALRM",
    /// Please end: the default.
    #[default]
    Term = 15 "SIGTERM",
    /// Goes on after a stop.
    Cont = 18 "SIGCONT",
    /// Stops, whatever the process does.
    Stop = 19 "SIGSTOP",
    /// More processor time than it may use.
    Xcpu = 24 "SIGXCPU",
    /// A larger file than it may write.
    Xfsz = 25 "SIGXFSZ",
    /// The terminal's size has changed.
    Winch = 28 "SIGWINCH",
    /// A system call that is none, or not allowed.
    Sys = 31 "SIGSYS",
}
