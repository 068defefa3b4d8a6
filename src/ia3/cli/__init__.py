"""The command line: one file for each verb, beside what reads arguments, writes results and shows progress."""
