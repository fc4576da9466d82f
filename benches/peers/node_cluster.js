// Node's cluster, reloaded as is usual: at SIGHUP each worker is replaced; the old one is told to disconnect when the new one listens.
'use strict';

const cluster = require('node:cluster');

if (cluster.isPrimary) {
  const start = () => new Promise((resolve) => {
    const worker = cluster.fork();
    worker.once('listening', () => resolve(worker));
  });
  let current = [];
  let last = Promise.resolve();
  const reload = async () => {
    for (const [at, old] of current.entries()) {
      current[at] = await start();
      old.disconnect();
    }
  };
  process.on('SIGHUP', () => { last = last.then(reload); });
  process.on('SIGTERM', () => process.exit(0));
  Promise.all(Array.from({ length: Number(process.env.WORKERS) }, start)).then((workers) => { current = workers; });
} else {
  require('./node_app.js');
}
