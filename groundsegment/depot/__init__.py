"""The depot: one directory that holds all the ground knows. Start at `groundsegment.depot.depot.Depot`."""
