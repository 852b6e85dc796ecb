"""A sweep as one HTML page that needs no other file: `mpcwdwm report`."""
