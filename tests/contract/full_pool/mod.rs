//! A full pool is back-pressure, not an error. Datagrams wait in the socket, the socket resumes by
//! itself, and one socket delays others by a bounded number of datagrams.

mod back_pressure;
mod fairness;
