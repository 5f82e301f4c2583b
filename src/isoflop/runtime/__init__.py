"""What every stage runs through and what cannot change a result: parameters, errors, progress, whole outputs."""
