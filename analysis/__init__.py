"""The law: from a table of runs to fitted scaling laws with intervals, plots and a report. No torch."""
