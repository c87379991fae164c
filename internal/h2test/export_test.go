package h2test

// Verify is VerifyNoLeaks without the exit.
var Verify = verify
