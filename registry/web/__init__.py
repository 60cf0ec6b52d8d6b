"""What every page shares: sessions, the sign-in door, rendering, static files. Pages live in `dashboard` and `storefront`."""
